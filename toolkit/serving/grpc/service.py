"""The Open Inference Protocol's service over gRPC, in the event loop of the REST application."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from toolkit.serving.access import require_key
from toolkit.serving.exchange import Exchange, seconds_since
from toolkit.serving.grpc import inference_pb2
from toolkit.serving.protocol import (
    DATATYPES,
    MICROSECONDS,
    InferRequest,
    Tensor,
    WantedOutput,
    array_of,
    elements_of,
    model_metadata,
    raw_bytes,
    server_metadata,
    split_bytes,
)
from toolkit.serving.refusal import Reason, Refused, bad_request
from toolkit.serving.request_log import RequestLog, request_id
from toolkit.serving.tracing import span

SERVICE = "inference.GRPCInferenceService"
messages: Any = inference_pb2
"""Generated, without types."""
OPEN = ("ServerLive", "ServerReady")
RETRY = "retry-after"


class InferenceService:
    """The methods of the protocol's service.

    Args:
        exchange: models and metrics.
        api_key: that calls must carry in their metadata; None where anybody may ask.
        log: told of every call.
    """

    def __init__(self, exchange: Exchange, api_key: str | None, log: RequestLog) -> None:
        self._exchange, self._key, self._log = exchange, api_key, log
        self._repository = exchange.repository

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server calls."""
        methods: dict[str, Callable[[Any, float, float | None], Awaitable[Any]]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._answering(name, method, getattr(messages, f"{name}Request").FromString),
                    response_serializer=getattr(messages, f"{name}Response").SerializeToString,
                )
                for name, method in methods.items()
            },
        )

    async def server_live(self, request: Any, arrived: float, timeout: float | None) -> Any:
        """True from the start on."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, arrived: float, timeout: float | None) -> Any:
        """Whether every bundle passed its proof here and answers."""
        return messages.ServerReadyResponse(ready=self._repository.ready)

    async def model_ready(self, request: Any, arrived: float, timeout: float | None) -> Any:
        """Whether a model answers."""
        try:
            self._repository.get(request.name, request.version)
        except Refused as refused:
            if refused.reason is Reason.NOT_FOUND:
                raise
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def server_metadata(self, request: Any, arrived: float, timeout: float | None) -> Any:
        """What the server is."""
        return messages.ServerMetadataResponse(**server_metadata())

    async def model_metadata(self, request: Any, arrived: float, timeout: float | None) -> Any:
        """A model's inputs and outputs."""
        model = self._repository.get(request.name, request.version)
        return messages.ModelMetadataResponse(**model_metadata(model, self._repository.versions(model.name)))

    async def model_infer(self, request: Any, arrived: float, timeout: float | None) -> Any:
        """Answer an inference request."""
        asked = infer_request(request)
        answered = await self._exchange.infer(request.model_name, request.model_version, asked, arrived, timeout)
        model = answered.model
        response = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=asked.id)
        for tensor in answered.tensors:
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            response.raw_output_contents.append(raw_bytes(tensor))
        return response

    def _answering(
        self,
        name: str,
        method: Callable[[Any, float, float | None], Awaitable[Any]],
        parse: Callable[[bytes], Any],
    ) -> Callable[[bytes, Any], Awaitable[Any]]:
        async def answer(content: bytes, context: Any) -> Any:
            arrived, status, request = time.monotonic(), "OK", None
            headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
            identity = request_id(headers.get("x-request-id"))
            try:
                with span(f"{SERVICE}/{name}", headers):
                    if name not in OPEN:
                        require_key(self._key, headers)
                    request = _parsed(parse, content)
                    return await method(request, arrived, context.time_remaining())
            except Refused as refused:
                status = refused.reason.grpc
                await _abort(context, refused)
            except Exception as error:
                status = Reason.FAILED.grpc
                if isinstance(error, grpc.RpcError):
                    raise
                self._log.failure(identity)
                await _abort(context, Refused(Reason.FAILED, "the server failed; its log says why"))
            finally:
                self._told(name, getattr(request, "model_name", ""), identity, status, seconds_since(arrived))

        return answer

    def _told(self, name: str, model: str, identity: str, status: str, seconds: float) -> None:
        if model not in self._repository.names:
            model = ""
        if name == "ModelInfer":
            self._exchange.metrics.request(model, "grpc", status, seconds)
            if status != "OK":
                self._exchange.metrics.rejection(model, status)
        self._log.request(identity, "grpc", f"/{SERVICE}/{name}", status, seconds, model)


def _parsed(parse: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return parse(content)
    except DecodeError as error:
        raise bad_request(f"the message is no protobuf of this call: {error}") from error


async def _abort(context: Any, refused: Refused) -> NoReturn:
    """End a call with a refusal."""
    trailing = () if refused.retry_after is None else ((RETRY, str(max(1, round(refused.retry_after)))),)
    await context.abort(grpc.StatusCode[refused.reason.grpc], refused.what, trailing)
    raise AssertionError("abort raises")


def infer_request(request: Any) -> InferRequest:
    """A message as a request.

    Raises:
        Refused: tensors that are not what type and shape say.
    """
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise bad_request(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs")
    tensors = [_tensor(given, raw[place] if raw else None) for place, given in enumerate(request.inputs)]
    timeout = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    if timeout < 0 or ("timeout" in request.parameters and not timeout):
        raise bad_request("timeout must be a whole number of microseconds above 0")
    return InferRequest(
        inputs=tensors,
        outputs=[_wanted(output) for output in request.outputs],
        id=request.id,
        timeout=timeout / MICROSECONDS if timeout else None,
    )


def _tensor(given: Any, raw: bytes | None) -> Tensor:
    name, datatype, shape = given.name, given.datatype, tuple(given.shape)
    elements = elements_of(shape, name)
    contents = given.contents
    if raw is not None:
        if given.HasField("contents"):
            raise bad_request(f"input {name}: give contents or raw_input_contents")
        if datatype == "BYTES":
            return Tensor(name, datatype, shape, split_bytes(raw, shape, name))
        return Tensor(name, datatype, shape, array_of(raw, datatype, shape, name))
    fields = {"BYTES": contents.bytes_contents, "UINT8": contents.uint_contents, "FP32": contents.fp32_contents}
    if datatype not in fields:
        raise bad_request(f"input {name}: the datatype {datatype!r} is none of {', '.join(fields)}")
    values = fields[datatype]
    if len(values) != elements:
        raise bad_request(f"input {name}: {len(values)} elements, where its shape takes {elements}")
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, list(values))
    array = np.array(values)
    if datatype == "UINT8" and array.size and array.max() > np.iinfo(np.uint8).max:
        raise bad_request(f"input {name}: UINT8 is from 0 to 255")
    return Tensor(name, datatype, shape, array.astype(DATATYPES[datatype]).reshape(shape))


def _wanted(output: Any) -> WantedOutput:
    classes = output.parameters["classification"].int64_param if "classification" in output.parameters else 0
    if classes < 0:
        raise bad_request(f"output {output.name}: classification must be a number of classes")
    return WantedOutput(output.name, classes=classes)
