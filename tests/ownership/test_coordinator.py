"""What a coordinator says of its settings before it touches anything."""

from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.configuration import dynamic_config, engine_config
from mainspring_coordinator.engine.placement.dynamic import DynamicConfig


def test_the_thresholds_of_dynamic_are_the_guides_unless_they_are_set() -> None:
    assert dynamic_config(CoordinatorSettings.of()) == DynamicConfig(80, 100_000, 0.1, 20, 0.1, 120_000_000)
    assert CoordinatorSettings.of().dynamic_failure_window_ms == 5 * 60_000
    own = dynamic_config(
        CoordinatorSettings.of(
            DYNAMIC_CPU_THRESHOLD=50,
            DYNAMIC_ROUND_TRIP_THRESHOLD=7,
            DYNAMIC_FAILURE_THRESHOLD=0.5,
            DYNAMIC_FAILURE_ATTEMPTS=3,
            DYNAMIC_HYSTERESIS=0,
            DYNAMIC_DWELL=1_000,
        )
    )
    assert own == DynamicConfig(50, 7_000, 0.5, 3, 0, 1_000_000)


def test_retention_may_be_a_part_of_a_day() -> None:
    assert CoordinatorSettings.of().retention_ms == 0
    assert CoordinatorSettings.of(RETENTION_DAYS="0.5").retention_ms == 12 * 3_600_000
    assert CoordinatorSettings.of(RETENTION_DAYS=1e-12).retention_ms == 1, "0 would be: for ever"


def test_outputs_are_stored_in_the_database_unless_there_is_redis() -> None:
    assert engine_config(CoordinatorSettings.of()).results_in_database
    assert not engine_config(CoordinatorSettings.of(REDIS_URL="redis://host")).results_in_database
