"""Read processes: several cores behind one address.

The service's own process is the *writer*: it owns the store. With `--readers N`, N more processes listen on
the service's port, which they share, and the writer listens on a socket in the data directory. A reader hands
on to the writer, byte for byte, every call that it does not answer itself.

    supervisor      in the writer: starts the readers, replaces one that ends, stops them
    spare           in the writer: one more process, which waits to replace a reader
    shared_port     in the writer: holds the port that the readers share
    messages        what the writer tells a reader
    front           in the writer: all of that together, and the memory that readers answer from
    process         a reader: from its first message to its end
    server          in a reader: the gRPC server
    routes          in a reader: which calls it answers and which it hands on, and in which threads
    answers         in a reader: what it answers, by method
    answering       in a reader: what all its answers have in common
    checks          in a reader: answers checks
    members         in a reader: answers lists and exports of members
    sizes           in a reader: answers counts and exact estimates
    keys            in a reader: whether a call's API key permits it
    forwarding      in a reader: hands calls on
"""
