"""What a coordinator says of its settings before it touches anything."""

import asyncio

import pytest

from mainspring.errors import SettingsError
from mainspring.settings import CoordinatorSettings
from mainspring_coordinator.app import Coordinator, without_effect


def test_a_strategy_that_is_not_here_yet_is_refused_with_those_that_are() -> None:
    async def start() -> None:
        Coordinator(CoordinatorSettings.of(ASSIGNMENT_STRATEGY="dynamic"))

    with pytest.raises(
        SettingsError,
        match=r"ASSIGNMENT_STRATEGY: 'dynamic' .* round-robin, load-balanced, capability, locality, affinity",
    ):
        asyncio.run(start())


def test_settings_of_a_later_version_are_named() -> None:
    assert without_effect(CoordinatorSettings.of()) == []
    assert without_effect(CoordinatorSettings.of(RETENTION_DAYS=7, REDIS_URL="redis://host")) == [
        "REDIS_URL",
        "RETENTION_DAYS",
    ]
