# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 shell around `svd_vlm_ros.engine`.

`perception_node` is the lifecycle node; it composes the rest. `session` makes what exists while the
node is configured, `effects` lets it follow the parameters. The rooms, each using those before it:

    parameters   what there is, what is possible, and the values
    cameras      subscriptions, the newest frame of each, its conversion
    inference    the thread that owns the model: queue, requests, answers, descriptions
    interfaces   service, action, topics
    health       figures, watch, diagnostics

The way of a question: `service` or `action` makes a `Request` of the message, `handler` checks it
and puts it into the queue, the `Worker` takes it with the frame of its turn, `answers` answers it,
`messages` fills the response.
"""
