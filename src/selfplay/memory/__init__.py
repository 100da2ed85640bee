"""How much memory a run needs, calculated from its config and the configs of its models before it begins."""
