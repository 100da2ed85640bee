"""Hydra finds configs of the user's project and of installed packages, where it composes selfplay's."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from selfplay.project import CONF, config_folders


class SelfplaySearchPath(SearchPathPlugin):  # type: ignore[misc]
    """Appends the folders of `selfplay.project.config_folders`; programs with other configs are left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if not any(
            e.provider == "main" and e.path.removeprefix("file://") == str(CONF) for e in search_path.get_path()
        ):
            return
        for provider, folder in config_folders().items():
            search_path.append(provider, f"file://{folder}")
