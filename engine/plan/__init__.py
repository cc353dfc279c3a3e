"""Plans: criteria and journey trees compiled to serialisable data that any backend can execute."""
