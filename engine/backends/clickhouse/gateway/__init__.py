"""The process in front of a cluster: what it keeps itself, in the files of an embedded store.

It has the log, the documents, who the users are, event ids and request ids, stored memberships and their
change logs, and for each account what of its rows counts. The rows are in the cluster.
"""
