"""A connection to one coordinator, ready to be called."""

from mainspring.access import Access, plain
from mainspring.dial import Keepalive, open_channel
from mainspring.v1 import admin_pb2_grpc, client_pb2_grpc


class Stubs:
    """One address: its channel and the services on it."""

    def __init__(self, address: str, keepalive: Keepalive, access: Access = plain) -> None:
        self.address = address
        self.channel = open_channel(address, keepalive, access)
        self.workflows = client_pb2_grpc.WorkflowsServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
