"""Publishes to one node for as long as it runs, and writes down what was acknowledged.

Arguments: host, port, topic, name, messages a second, file. Bodies are NAME-0, NAME-1, ...; each is written to the
file as a line once its OK has come. A node that is gone is tried again; what was not acknowledged is not
published again under the same body.
"""

import sys
import time

from nodes import Publisher

host, port, topic, name, rate, path = sys.argv[1:7]
pause, number, connection = 1 / float(rate), 0, None
with open(path, "a", buffering=1) as acknowledged:
    while True:
        body = f"{name}-{number}"
        number += 1
        try:
            connection = connection or Publisher(host, int(port))
            connection.publish(topic, body.encode())
            acknowledged.write(body + "\n")
        except OSError:
            connection = None
        time.sleep(pause)
