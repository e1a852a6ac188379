"""Archives that others wrote: opening, naming and reading them, and several of them as one."""
