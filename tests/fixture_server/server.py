"""An MCP server with everything the public conformance suite asks a server for, in both eras.

Run it: `python -m tests.fixture_server.server` (stdio) or `… --http PORT [--host HOST]` (streamable HTTP at /mcp;
port 0 is any free one, printed as `listening PORT` on standard error). It needs nothing but `mcp` and uvicorn, so it
runs in a container as one copied folder.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import struct
import sys
import warnings
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio
import mcp_types as t
from mcp.server import Server
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

try:
    from tests.fixture_server.background import WORK, Background
except ImportError:  # in a container there is only this folder
    from background import WORK, Background  # type: ignore[import-not-found, no-redef]

warnings.filterwarnings("ignore", message=".*deprecated.*")

MODERN = "2026-07-28"
Result = t.CallToolResult | t.InputRequiredResult
KEY = os.urandom(32)


def png() -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
    return base64.b64encode(picture + chunk(b"IEND", b"")).decode()


def wav() -> str:
    head = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
    return base64.b64encode(head + b"data" + struct.pack("<I", 0)).decode()


PNG, WAV = png(), wav()
ADDRESS = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
}
SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": ADDRESS},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def text(*lines: str, error: bool = False) -> t.CallToolResult:
    return t.CallToolResult(content=[t.TextContent(type="text", text=line) for line in lines], is_error=error)


def embedded(uri: str, mime: str, body: str) -> t.EmbeddedResource:
    return t.EmbeddedResource(type="resource", resource=t.TextResourceContents(uri=uri, mime_type=mime, text=body))


def elicitation(message: str, properties: dict[str, Any], required: list[str] | None = None) -> t.ElicitRequest:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required is not None:
        schema["required"] = required
    return t.ElicitRequest(params=t.ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(prompt: str, max_tokens: int = 100) -> t.CreateMessageRequest:
    message = t.SamplingMessage(role="user", content=t.TextContent(type="text", text=prompt))
    return t.CreateMessageRequest(params=t.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def seal(value: dict[str, Any]) -> str:
    body = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
    return f"{body}.{hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest()}"


def unseal(state: str | None) -> dict[str, Any]:
    body, _, mac = (state or "").rpartition(".")
    if not hmac.compare_digest(hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest(), mac):
        raise MCPError(t.INVALID_PARAMS, "requestState failed its integrity check")
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body))
    return value


class Fixture:
    """The server's state and its handlers."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.extra_tools: list[str] = []
        self.extra_prompts: list[str] = []
        self.watched: set[str] = set()
        self.tools: dict[str, tuple[Callable[[Any, t.CallToolRequestParams], Awaitable[Result]], dict[str, Any]]] = {}
        nothing: dict[str, Any] = {"type": "object", "properties": {}}
        for name in type(self).__dict__:
            if name.startswith("tool_"):
                self.tools[name.removeprefix("tool_")] = (getattr(self, name), nothing)
        self._describe("test_sampling", {"prompt": {"type": "string"}}, ["prompt"])
        self._describe("test_elicitation", {"message": {"type": "string"}}, ["message"])
        self._describe("echo", {"value": {}}, [])
        self._describe("wait", {"seconds": {"type": "number"}}, [])
        self._describe("ask_after", {"prompt": {"type": "string"}, "seconds": {"type": "number"}}, ["prompt"])
        self._describe("log_after", {"line": {"type": "string"}, "seconds": {"type": "number"}}, ["line"])
        self._describe("big", {"bytes": {"type": "integer"}}, [])
        region = {"type": "string", "x-mcp-header": "Region"}
        self._describe("test_custom_headers", {"region": region, "note": {"type": "string"}}, [])
        self.tools["json_schema_2020_12_tool"] = (self.tools["json_schema_2020_12_tool"][0], SCHEMA_2020_12)

    def _describe(self, name: str, properties: dict[str, Any], required: list[str]) -> None:
        self.tools[name] = (self.tools[name][0], {"type": "object", "properties": properties, "required": required})

    # lists

    async def list_tools(self, ctx: Any, params: t.PaginatedRequestParams | None) -> t.ListToolsResult:
        tools = [
            t.Tool(name=name, description=f"Fixture tool {name}", input_schema=schema)
            for name, (_, schema) in self.tools.items()
        ]
        tools += [
            t.Tool(name=name, description="One more", input_schema={"type": "object"})
            for name in (*WORK, *self.extra_tools)
        ]
        return t.ListToolsResult(tools=tools, ttl_ms=0, cache_scope="private")

    async def call_tool(self, ctx: Any, params: t.CallToolRequestParams) -> Result:
        if params.name in self.extra_tools:
            return text("an extra tool")
        if params.name not in self.tools:
            raise MCPError(t.INVALID_PARAMS, f"Unknown tool: {params.name}")
        return await self.tools[params.name][0](ctx, params)

    # plain tools

    async def tool_test_simple_text(self, ctx: Any, params: Any) -> Result:
        return text("This is a simple text response for testing.")

    async def tool_test_image_content(self, ctx: Any, params: Any) -> Result:
        return t.CallToolResult(content=[t.ImageContent(type="image", data=PNG, mime_type="image/png")])

    async def tool_test_audio_content(self, ctx: Any, params: Any) -> Result:
        return t.CallToolResult(content=[t.AudioContent(type="audio", data=WAV, mime_type="audio/wav")])

    async def tool_test_embedded_resource(self, ctx: Any, params: Any) -> Result:
        body = "This is an embedded resource content."
        return t.CallToolResult(content=[embedded("test://embedded-resource", "text/plain", body)])

    async def tool_test_multiple_content_types(self, ctx: Any, params: Any) -> Result:
        return t.CallToolResult(
            content=[
                t.TextContent(type="text", text="Multiple content types test:"),
                t.ImageContent(type="image", data=PNG, mime_type="image/png"),
                embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
            ]
        )

    async def tool_test_error_handling(self, ctx: Any, params: Any) -> Result:
        return text("This tool intentionally returns an error for testing", error=True)

    async def tool_test_tool_with_logging(self, ctx: Any, params: Any) -> Result:
        for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.session.send_log_message("info", line, "fixture", related_request_id=ctx.request_id)
            await anyio.sleep(0.05)
        return text("Tool with logging executed successfully")

    async def tool_test_logging_tool(self, ctx: Any, params: Any) -> Result:
        await ctx.session.send_log_message("info", "a line", "fixture", related_request_id=ctx.request_id)
        return text("logged")

    async def tool_test_tool_with_progress(self, ctx: Any, params: Any) -> Result:
        for progress in (0, 50, 100):
            await ctx.session.report_progress(progress, 100, f"Completed step {progress} of 100")
            await anyio.sleep(0.05)
        return text("done")

    async def tool_json_schema_2020_12_tool(self, ctx: Any, params: Any) -> Result:
        return text(f"JSON Schema 2020-12 tool called with: {json.dumps(params.arguments or {})}")

    async def tool_test_custom_headers(self, ctx: Any, params: Any) -> Result:
        return text(json.dumps(params.arguments or {}))

    async def tool_test_reconnection(self, ctx: Any, params: Any) -> Result:
        if ctx.close_sse_stream is not None:
            await ctx.close_sse_stream()
        await anyio.sleep(0.1)
        return text("Reconnection test completed successfully")

    # tools of our own

    async def tool_greet(self, ctx: Any, params: Any) -> Result:
        return text(f"Hello, {(params.arguments or {}).get('name')}!")

    async def tool_echo(self, ctx: Any, params: Any) -> Result:
        return text(json.dumps(params.arguments or {}))

    async def tool_wait(self, ctx: Any, params: Any) -> Result:
        try:
            await anyio.sleep((params.arguments or {}).get("seconds", 1))
        except anyio.get_cancelled_exc_class():
            print("cancelled wait", file=sys.stderr, flush=True)
            raise
        return text("waited")

    async def tool_pid(self, ctx: Any, params: Any) -> Result:
        return text(str(os.getpid()))

    async def tool_big(self, ctx: Any, params: Any) -> Result:
        return text("x" * (params.arguments or {}).get("bytes", 1_000_000))

    async def tool_crash(self, ctx: Any, params: Any) -> Result:
        os._exit(3)

    async def tool_ask_after(self, ctx: Any, params: Any) -> Result:
        arguments = params.arguments or {}
        await anyio.sleep(arguments.get("seconds", 0))
        return await self._sample(ctx, params, arguments["prompt"])

    async def tool_stubborn(self, ctx: Any, params: Any) -> Result:
        """Asks even after it was cancelled, as many servers would."""
        arguments = params.arguments or {}
        with anyio.CancelScope(shield=True):
            await anyio.sleep(arguments.get("seconds", 0))
            return await self._sample(ctx, params, arguments["prompt"])

    async def tool_log_after(self, ctx: Any, params: Any) -> Result:
        arguments = params.arguments or {}
        await anyio.sleep(arguments.get("seconds", 0))
        await ctx.session.send_log_message("info", arguments["line"], "fixture", related_request_id=ctx.request_id)
        await anyio.sleep(arguments.get("seconds", 0))
        return text(arguments["line"])

    async def tool_touch(self, ctx: Any, params: Any) -> Result:
        uri = "test://watched-resource"
        await self.bus.publish(ResourceUpdated(uri))
        if uri in self.watched and ctx.protocol_version != MODERN:
            await ctx.session.send_resource_updated(uri)
        return text("touched")

    # tools that ask

    async def _sample(self, ctx: Any, params: Any, prompt: str) -> Result:
        if ctx.protocol_version == MODERN:
            answers = params.input_responses or {}
            if "answer" not in answers:
                return t.InputRequiredResult(input_requests={"answer": sampling(prompt)})
            return text(f"LLM response: {answers['answer'].content.text}")
        request = sampling(prompt)
        answer = await ctx.session.create_message(
            messages=request.params.messages, max_tokens=100, related_request_id=ctx.request_id
        )
        return text(f"LLM response: {answer.content.text}")

    async def _elicit(self, ctx: Any, params: Any, request: t.ElicitRequest, words: str) -> Result:
        if ctx.protocol_version == MODERN:
            answers = params.input_responses or {}
            if "answer" not in answers:
                return t.InputRequiredResult(input_requests={"answer": request})
            answer = answers["answer"]
        else:
            form: Any = request.params
            answer = await ctx.session.elicit_form(form.message, form.requested_schema, ctx.request_id)
        return text(f"{words}: action={answer.action}, content={json.dumps(answer.content or {})}")

    async def tool_test_sampling(self, ctx: Any, params: Any) -> Result:
        return await self._sample(ctx, params, (params.arguments or {})["prompt"])

    async def tool_test_elicitation(self, ctx: Any, params: Any) -> Result:
        properties = {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        }
        request = elicitation((params.arguments or {})["message"], properties, ["username", "email"])
        return await self._elicit(ctx, params, request, "User response")

    async def tool_test_elicitation_sep1034_defaults(self, ctx: Any, params: Any) -> Result:
        properties = {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        }
        request = elicitation("Please review the defaults", properties, [])
        return await self._elicit(ctx, params, request, "Elicitation completed")

    async def tool_test_elicitation_sep1330_enums(self, ctx: Any, params: Any) -> Result:
        titled = [
            {"const": f"value{n}", "title": f"{word} Option"}
            for n, word in enumerate(("First", "Second", "Third"), 1)
        ]
        choices = [
            {"const": f"value{n}", "title": f"{word} Choice"}
            for n, word in enumerate(("First", "Second", "Third"), 1)
        ]
        options = ["option1", "option2", "option3"]
        legacy = ["Option One", "Option Two", "Option Three"]
        properties = {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": legacy},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": choices}},
        }
        request = elicitation("Please choose", properties, [])
        return await self._elicit(ctx, params, request, "Elicitation completed")

    async def tool_test_missing_capability(self, ctx: Any, params: Any) -> Result:
        if ctx.session.client_capabilities is None or ctx.session.client_capabilities.sampling is None:
            needed = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(t.MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
        return text("sampling is there")

    async def tool_test_streaming_elicitation(self, ctx: Any, params: Any) -> Result:
        await ctx.session.report_progress(1, 2)
        if "name" not in (params.input_responses or {}):
            return t.InputRequiredResult(input_requests={"name": elicitation("Name?", {"name": {"type": "string"}})})
        return text("done")

    async def tool_test_trigger_tool_change(self, ctx: Any, params: Any) -> Result:
        self.extra_tools.append(f"extra_tool_{len(self.extra_tools)}")
        await self.bus.publish(ToolsListChanged())
        if ctx.protocol_version != MODERN:
            await ctx.session.send_tool_list_changed()
        return text("the tools changed")

    async def tool_test_trigger_prompt_change(self, ctx: Any, params: Any) -> Result:
        self.extra_prompts.append(f"extra_prompt_{len(self.extra_prompts)}")
        await self.bus.publish(PromptsListChanged())
        if ctx.protocol_version != MODERN:
            await ctx.session.send_prompt_list_changed()
        return text("the prompts changed")

    # tools that answer with input_required

    def _name(self, params: Any) -> str | None:
        answer = (params.input_responses or {}).get("user_name")
        name = (getattr(answer, "content", None) or {}).get("name")
        return name if isinstance(name, str) else None

    NAME = {"name": {"type": "string"}}

    async def tool_test_input_required_result_elicitation(self, ctx: Any, params: Any) -> Result:
        name = self._name(params)
        if name is None:
            return t.InputRequiredResult(
                input_requests={"user_name": elicitation("What is your name?", self.NAME, ["name"])}
            )
        return text(f"Hello, {name}!")

    async def tool_test_input_required_result_sampling(self, ctx: Any, params: Any) -> Result:
        answer = (params.input_responses or {}).get("capital_question")
        if answer is None:
            return t.InputRequiredResult(
                input_requests={"capital_question": sampling("What is the capital of France?")}
            )
        return text(f"The model said: {answer.content.text}")

    async def tool_test_input_required_result_list_roots(self, ctx: Any, params: Any) -> Result:
        answer = (params.input_responses or {}).get("client_roots")
        if answer is None:
            return t.InputRequiredResult(
                input_requests={"client_roots": t.ListRootsRequest(params=t.RequestParams())}
            )
        return text(f"Roots: {', '.join(str(root.uri) for root in answer.roots)}")

    async def tool_test_input_required_result_request_state(self, ctx: Any, params: Any) -> Result:
        if params.request_state is None:
            asked = {"confirm": elicitation("Please confirm", {"ok": {"type": "boolean"}}, ["ok"])}
            return t.InputRequiredResult(input_requests=asked, request_state=seal({"round": 1}))
        unseal(params.request_state)
        return text("state-ok")

    async def tool_test_input_required_result_tampered_state(self, ctx: Any, params: Any) -> Result:
        return await self.tool_test_input_required_result_request_state(ctx, params)

    async def tool_test_input_required_result_multiple_inputs(self, ctx: Any, params: Any) -> Result:
        answers = params.input_responses or {}
        asked: dict[str, Any] = {
            "user_name": elicitation("What is your name?", self.NAME, ["name"]),
            "greeting": sampling("Generate a greeting", 50),
            "client_roots": t.ListRootsRequest(params=t.RequestParams()),
        }
        if params.request_state is None or any(key not in answers for key in asked):
            return t.InputRequiredResult(input_requests=asked, request_state=seal({"round": 1}))
        unseal(params.request_state)
        return text("all inputs are here")

    async def tool_test_input_required_result_multi_round(self, ctx: Any, params: Any) -> Result:
        answers = params.input_responses or {}
        number = unseal(params.request_state)["round"] if params.request_state is not None else 0
        if number == 0 or (number == 1 and "step1" not in answers):
            asked = {"step1": elicitation("Step 1: What is your name?", self.NAME, ["name"])}
            return t.InputRequiredResult(input_requests=asked, request_state=seal({"round": 1}))
        if number == 1 or "step2" not in answers:
            colour = {"color": {"type": "string"}}
            asked = {"step2": elicitation("Step 2: What is your favorite color?", colour, ["color"])}
            return t.InputRequiredResult(input_requests=asked, request_state=seal({"round": 2}))
        return text("both steps are done")

    async def tool_test_input_required_result_capabilities(self, ctx: Any, params: Any) -> Result:
        if params.input_responses:
            return text("thank you")
        has = ctx.session.client_capabilities
        asked: dict[str, Any] = {}
        if has is not None and has.sampling is not None:
            asked["sampled"] = sampling("Say something")
        if has is not None and has.elicitation is not None:
            asked["elicited"] = elicitation("Say something", self.NAME)
        return t.InputRequiredResult(input_requests=asked) if asked else text("nothing can be asked")

    # prompts

    async def list_prompts(self, ctx: Any, params: Any) -> t.ListPromptsResult:
        def argument(name: str) -> t.PromptArgument:
            return t.PromptArgument(name=name, description=f"Argument {name}", required=True)

        prompts = [
            t.Prompt(name="test_simple_prompt", description="A simple prompt"),
            t.Prompt(
                name="test_prompt_with_arguments",
                description="With arguments",
                arguments=[argument("arg1"), argument("arg2")],
            ),
            t.Prompt(
                name="test_prompt_with_embedded_resource",
                description="With a resource",
                arguments=[argument("resourceUri")],
            ),
            t.Prompt(name="test_prompt_with_image", description="With an image"),
            t.Prompt(name="test_input_required_result_prompt", description="Asks first"),
            *(t.Prompt(name=name, description="One more") for name in self.extra_prompts),
        ]
        return t.ListPromptsResult(prompts=prompts, ttl_ms=0, cache_scope="private")

    async def get_prompt(
        self, ctx: Any, params: t.GetPromptRequestParams
    ) -> t.GetPromptResult | t.InputRequiredResult:
        given: Mapping[str, str] = params.arguments or {}

        def say(content: Any) -> t.PromptMessage:
            return t.PromptMessage(
                role="user", content=t.TextContent(type="text", text=content) if isinstance(content, str) else content
            )

        match params.name:
            case "test_simple_prompt":
                messages = [say("This is a simple prompt for testing.")]
            case "test_prompt_with_arguments":
                messages = [say(f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'")]
            case "test_prompt_with_embedded_resource":
                resource = embedded(
                    given.get("resourceUri", ""), "text/plain", "Embedded resource content for testing."
                )
                messages = [say(resource), say("Please process the embedded resource above.")]
            case "test_prompt_with_image":
                image = t.ImageContent(type="image", data=PNG, mime_type="image/png")
                messages = [say(image), say("Please analyze the image above.")]
            case "test_input_required_result_prompt":
                if "user_context" not in (params.input_responses or {}):
                    asked = elicitation(
                        "What context should the prompt use?", {"context": {"type": "string"}}, ["context"]
                    )
                    return t.InputRequiredResult(input_requests={"user_context": asked})
                messages = [say("Use the context that was given.")]
            case _:
                raise MCPError(t.INVALID_PARAMS, f"Unknown prompt: {params.name}")
        return t.GetPromptResult(messages=messages)

    async def complete(self, ctx: Any, params: t.CompleteRequestParams) -> t.CompleteResult:
        values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
        return t.CompleteResult(completion=t.Completion(values=values, total=len(values), has_more=False))

    # resources

    async def list_resources(self, ctx: Any, params: Any) -> t.ListResourcesResult:
        names = ("static-text", "static-binary", "watched-resource")
        resources = [t.Resource(uri=f"test://{name}", name=name) for name in names]
        return t.ListResourcesResult(resources=resources, ttl_ms=0, cache_scope="private")

    async def list_templates(self, ctx: Any, params: Any) -> t.ListResourceTemplatesResult:
        template = t.ResourceTemplate(
            uri_template="test://template/{id}/data", name="template", mime_type="application/json"
        )
        return t.ListResourceTemplatesResult(resource_templates=[template], ttl_ms=0, cache_scope="private")

    async def read_resource(self, ctx: Any, params: t.ReadResourceRequestParams) -> t.ReadResourceResult:
        uri = str(params.uri)
        contents: Any
        if uri == "test://static-binary":
            contents = t.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
        elif uri in ("test://static-text", "test://watched-resource"):
            body = "This is the content of the static text resource."
            contents = t.TextResourceContents(uri=uri, mime_type="text/plain", text=body)
        elif uri.startswith("test://template/") and uri.endswith("/data"):
            number = uri.removeprefix("test://template/").removesuffix("/data")
            body = json.dumps({"id": number, "templateTest": True, "data": f"Data for ID: {number}"})
            contents = t.TextResourceContents(uri=uri, mime_type="application/json", text=body)
        else:
            code = t.INVALID_PARAMS if ctx.protocol_version == MODERN else -32002
            raise MCPError(code, "Resource not found", {"uri": uri})
        return t.ReadResourceResult(contents=[contents], ttl_ms=1000, cache_scope="private")

    async def subscribe(self, ctx: Any, params: t.SubscribeRequestParams) -> t.EmptyResult:
        self.watched.add(str(params.uri))
        return t.EmptyResult()

    async def unsubscribe(self, ctx: Any, params: t.UnsubscribeRequestParams) -> t.EmptyResult:
        self.watched.discard(str(params.uri))
        return t.EmptyResult()

    async def set_level(self, ctx: Any, params: t.SetLevelRequestParams) -> t.EmptyResult:
        return t.EmptyResult()


async def one_era(ctx: Any, call_next: Any) -> Any:
    """FIXTURE_ERA=legacy or modern: refuse the other era's greeting, as an older or a newer server would."""
    era = os.environ.get("FIXTURE_ERA")
    if era == "legacy" and ctx.method == "server/discover":
        raise MCPError(t.METHOD_NOT_FOUND, "Method not found")
    if era == "modern" and ctx.method == "initialize":
        raise MCPError(t.METHOD_NOT_FOUND, "Method not found")
    return await call_next(ctx)


class FixtureServer(Server):
    def create_initialization_options(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_initialization_options(NotificationOptions(True, True, True))


def build() -> Server:
    """The server."""
    fixture = Fixture()
    server = FixtureServer(
        "stockade-fixture",
        version="1.0.0",
        instructions="A server for tests.",
        on_list_tools=fixture.list_tools,
        on_call_tool=fixture.call_tool,
        on_list_prompts=fixture.list_prompts,
        on_get_prompt=fixture.get_prompt,
        on_list_resources=fixture.list_resources,
        on_list_resource_templates=fixture.list_templates,
        on_read_resource=fixture.read_resource,
        on_completion=fixture.complete,
        on_subscribe_resource=fixture.subscribe,
        on_unsubscribe_resource=fixture.unsubscribe,
        on_set_logging_level=fixture.set_level,
        on_subscriptions_listen=ListenHandler(fixture.bus),
        get_tool_input_schema=lambda name: fixture.tools[name][1] if name in fixture.tools else None,
    )
    server.middleware.append(one_era)
    server.middleware.append(Background(counted="FIXTURE_COUNTS" in os.environ).middleware)
    return server


def asgi(*, allow_any_host: bool = False) -> Any:
    """The server as an ASGI app at /mcp."""
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=not allow_any_host,
        allowed_hosts=["127.0.0.1:*", "localhost:*"],
        allowed_origins=["http://127.0.0.1:*", "http://localhost:*"],
    )
    manager = StreamableHTTPSessionManager(build(), security_settings=security)
    from starlette.applications import Starlette
    from starlette.routing import Route

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(lifespan=lifespan, routes=[Route("/mcp", endpoint=StreamableHTTPASGIApp(manager))])


async def serve_stdio() -> None:
    from mcp.server.stdio import stdio_server

    server = build()
    async with stdio_server() as (read, write), anyio.create_task_group() as tasks:
        into, only = anyio.create_memory_object_stream[Any](0)
        tasks.start_soon(refuse_greeting, read, write, into)
        await server.run(only, write, server.create_initialization_options())
        tasks.cancel_scope.cancel()


async def refuse_greeting(read: Any, write: Any, into: Any) -> None:
    """On a pipe the SDK takes the first greeting for the process's era, so one to refuse must not reach it."""
    refused = {"legacy": "server/discover", "modern": "initialize"}.get(os.environ.get("FIXTURE_ERA", ""))
    async with into:
        async for item in read:
            message = getattr(item, "message", None)
            if refused is not None and getattr(message, "method", None) == refused:
                error = t.ErrorData(code=t.METHOD_NOT_FOUND, message="Method not found")
                await write.send(SessionMessage(t.JSONRPCError(jsonrpc="2.0", id=message.id, error=error)))
            else:
                await into.send(item)


def serve_http(host: str, port: int) -> None:
    import socket

    import uvicorn

    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so asyncio sets TCP_NODELAY
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    sock.listen(128)
    print(f"listening {sock.getsockname()[1]}", file=sys.stderr, flush=True)
    config = uvicorn.Config(asgi(allow_any_host=True), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[sock])


def end_with_the_parent() -> None:
    """A test run that was killed leaves no server behind (prctl(2), PR_SET_PDEATHSIG)."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    end_with_the_parent()
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--http", type=int, metavar="PORT")
    arguments.add_argument("--host", default="127.0.0.1")
    chosen = arguments.parse_args()
    if chosen.http is None:
        asyncio.run(serve_stdio())
    else:
        serve_http(chosen.host, chosen.http)


if __name__ == "__main__":
    main()
