"""What the engine and `dynamic` need of the settings."""

from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.engine.config import EngineConfig
from mainspring_coordinator.engine.placement.dynamic import DynamicConfig


def engine_config(settings: CoordinatorSettings) -> EngineConfig:
    """Return what the engine needs of the settings."""
    return EngineConfig(
        max_retries=settings.max_retries,
        stream_grace_us=settings.stream_grace_ms * 1_000,
        priority_ageing_us=settings.priority_ageing_ms * 1_000,
        strategy=settings.assignment_strategy,
        cpu_weight=settings.cpu_weight,
        memory_weight=settings.memory_weight,
        workflow_weight=settings.workflow_weight,
        locality_wait_us=settings.locality_wait_ms * 1_000,
        instance=settings.engine_instance_id,
        failover=settings.enable_failover,
        rates=settings.rates,
        open_workflows_a_shard=settings.max_open_workflows,
        results_in_database=settings.redis_url is None,
    )


def dynamic_config(settings: CoordinatorSettings) -> DynamicConfig:
    """Return what `dynamic` needs of the settings."""
    return DynamicConfig(
        cpu_percent=settings.dynamic_cpu_threshold,
        round_trip_us=settings.dynamic_round_trip_threshold_ms * 1_000,
        failed_share=settings.dynamic_failure_threshold,
        attempts_min=settings.dynamic_failure_attempts,
        hysteresis=settings.dynamic_hysteresis,
        dwell_us=settings.dynamic_dwell_ms * 1_000,
    )
