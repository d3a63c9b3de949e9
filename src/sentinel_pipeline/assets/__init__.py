"""Built-in models and footage; see NOTICE for their sources and licences."""
