#!/usr/bin/env python3
"""moto's server with queues of thousands of messages. Usage: moto_server.py PORT

moto reads the clock for every message of a queue, several times in each call, and takes some microseconds for that: ten messages a
second are left of it with 5,000 in a queue. Here its SQS reads a cheaper clock, and does the rest as always.

Runs in the environment of the servers that are compared with, `target/proofs-servers`.
"""

from __future__ import annotations

import sys
import time

from moto.server import main
from moto.sqs import models

models.unix_time_millis = lambda: time.time() * 1000
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
