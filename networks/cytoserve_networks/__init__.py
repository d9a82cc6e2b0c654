"""The networks that training fits and the export traces: torch modules, with their folders of a checkpoint."""
