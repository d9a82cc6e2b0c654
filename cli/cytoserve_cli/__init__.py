"""The command line ``cytoserve``: the top floor. It imports the other rooms when a subcommand needs them."""
