"""Handlers: how a function becomes one, where they are found, what they take.

table       what a handler is when it runs; the table of this process
parameters  what a handler takes, read from its annotations at start-up
decorator   `@on_queue_message`
marks       what the decorator leaves on a function, and how it is found again
wiring      what the container does to make a consumer
consumers   which consumers the container holds, and the handlers they bring
"""
