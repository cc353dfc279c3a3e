"""The Milepost rule engine: criteria, plans, journeys and audiences, with no knowledge of gRPC or the
network.
"""
