"""What users import does not vanish by accident."""

import inspect

import mainspring_client
from mainspring_client import Client, Handle, SyncClient, SyncHandle


def test_the_package_exports_what_it_promises() -> None:
    assert set(mainspring_client.__all__) >= {
        "Client",
        "Handle",
        "Submission",
        "SyncClient",
        "SyncHandle",
        "WorkflowFilter",
    }
    assert all(hasattr(mainspring_client, name) for name in mainspring_client.__all__)


def test_the_synchronous_face_has_every_method_with_the_same_parameters() -> None:
    def methods(face: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(face).items()
            if not name.startswith("_") and inspect.isfunction(method)
        }

    assert methods(SyncClient) == methods(Client)
    assert methods(SyncHandle) == methods(Handle)
