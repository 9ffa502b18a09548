"""Records, protocols, errors, fingerprints and the registry: what every area shares."""
