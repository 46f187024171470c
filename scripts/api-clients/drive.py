"""Drives the generated Python client against a running server: a capsule from its creation to its end, and errors."""

import os

from generated_client import AuthenticatedClient
from generated_client.api.capsules import create_capsule, delete_capsule, get_capsule, list_capsules
from generated_client.models import Capsule, CreateCapsule, ErrorBody, ErrorCode


def client(key: str) -> AuthenticatedClient:
    return AuthenticatedClient(
        base_url=os.environ["WRENN_BASE_URL"], token=key, prefix="", auth_header_name="X-API-Key"
    )


mine = client(os.environ["WRENN_API_KEY"])
made = create_capsule.sync_detailed(client=mine, body=CreateCapsule(template="minimal"))
assert made.status_code == 202 and isinstance(made.parsed, Capsule), made
capsule = made.parsed
listed = list_capsules.sync(client=mine)
assert isinstance(listed, list) and any(one.id == capsule.id for one in listed), listed
found = get_capsule.sync(capsule.id, client=mine)
assert isinstance(found, Capsule) and found.id == capsule.id, found
assert delete_capsule.sync_detailed(capsule.id, client=mine).status_code == 202

# An error is a value with a code of the closed set, not an exception.
missing = get_capsule.sync("cl-" + "0" * 25, client=mine)
assert isinstance(missing, ErrorBody) and missing.error.code == ErrorCode.NOT_FOUND, missing
refused = list_capsules.sync(client=client("wrn_" + "0" * 32))
assert isinstance(refused, ErrorBody) and refused.error.code == ErrorCode.UNAUTHORIZED, refused
print("the Python client works")
