"""Where the values behind `${secret:NAME}`, `${env:NAME}` and `${command:…}` come from."""

from registry.secrets.errors import SecretError
from registry.secrets.folders import default_folder
from registry.secrets.store import SecretStore
from registry.secrets.uses import needed_by, with_references

__all__ = ["SecretError", "SecretStore", "default_folder", "needed_by", "with_references"]
