from tests.data.conftest import object_storage

__all__ = ["object_storage"]
