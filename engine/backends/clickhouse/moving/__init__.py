"""Moving an embedded store into a cluster.

The source is a backup, so the store goes on serving meanwhile. Users' data become rows of the cluster; all
else (who the users are, resources, event ids, memberships and their change logs) becomes the gateway's
directory. An export that was interrupted goes on where it ended, and is complete only once the rows of every
server agree with the source.
"""
