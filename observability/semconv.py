"""Every attribute, metric and label name, in one place.

Names of OpenTelemetry's conventions where they exist (GenAI/MCP and the stable network attributes); ours start
with `stockade.`. Nothing here is imported from an OpenTelemetry package: the egress container has none, and
the MCP names moved once already.
"""

from __future__ import annotations

from typing import Final

# MCP (open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md)
MCP_METHOD_NAME: Final = "mcp.method.name"
MCP_PROTOCOL_VERSION: Final = "mcp.protocol.version"
MCP_SESSION_ID: Final = "mcp.session.id"
MCP_RESOURCE_URI: Final = "mcp.resource.uri"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_PROMPT_NAME: Final = "gen_ai.prompt.name"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
JSONRPC_REQUEST_ID: Final = "jsonrpc.request.id"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"

# network (stable)
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
NETWORK_TRANSPORT: Final = "network.transport"
NETWORK_PROTOCOL_NAME: Final = "network.protocol.name"
NETWORK_IO_DIRECTION: Final = "network.io.direction"
CLIENT_ADDRESS: Final = "client.address"
CLIENT_PORT: Final = "client.port"
SECURITY_RULE_NAME: Final = "security_rule.name"
SECURITY_RULE_RULESET_NAME: Final = "security_rule.ruleset.name"

# ours
BACKEND_NAME: Final = "stockade.backend.name"
CLIENT_NAME: Final = "stockade.client.name"
EGRESS_DECISION: Final = "stockade.egress.decision"
EGRESS_REASON: Final = "stockade.egress.reason"
EGRESS_MODE: Final = "stockade.egress.mode"
EGRESS_VIA: Final = "stockade.egress.via"
EGRESS_CALL_CERTAINTY: Final = "stockade.egress.call.certainty"
EGRESS_BYTES_SENT: Final = "stockade.egress.bytes_sent"
EGRESS_BYTES_RECEIVED: Final = "stockade.egress.bytes_received"
EGRESS_CONNECTION: Final = "stockade.egress.connection.id"
EGRESS_METHOD: Final = "stockade.egress.method"
EGRESS_DESTINATION: Final = "stockade.egress.destination"
"""`ADDRESS:PORT` that a direct connection dialled."""

# metrics
METRIC_SERVER_OPERATION_DURATION: Final = "mcp.server.operation.duration"
METRIC_CLIENT_OPERATION_DURATION: Final = "mcp.client.operation.duration"
METRIC_SERVER_SESSION_DURATION: Final = "mcp.server.session.duration"
METRIC_EGRESS_CONNECTIONS: Final = "stockade.egress.connections"
METRIC_EGRESS_ACTIVE: Final = "stockade.egress.connection.active"
METRIC_EGRESS_DURATION: Final = "stockade.egress.connection.duration"
METRIC_EGRESS_DNS_DURATION: Final = "stockade.egress.dns.duration"
METRIC_EGRESS_IO: Final = "stockade.egress.io"
METRIC_EGRESS_RULE_INFO: Final = "stockade.egress.rule.info"
METRIC_TOOLS_FILTERED: Final = "stockade.tools.filtered"
METRIC_BACKEND_UP: Final = "stockade.backend.up"
METRIC_BACKEND_RESTARTS: Final = "stockade.backend.restarts"
METRIC_CONFIG_RELOAD_SUCCESS: Final = "stockade.config.reload.success"
METRIC_EVENTS_DROPPED: Final = "stockade.events.dropped"

# metric labels of ours (short: they are typed in PromQL)
LABEL_BACKEND: Final = "backend"
LABEL_CLIENT: Final = "client"
LABEL_DECISION: Final = "decision"
LABEL_RULE: Final = "rule"
LABEL_REASON: Final = "reason"
LABEL_SOURCE: Final = "source"

PORT_OTHER: Final = "other"
"""The `server.port` label of a port that no policy names."""
OTHER: Final = "_other"
"""The label value for a name that is not known beforehand (a tool no backend has, a port no policy names)."""
