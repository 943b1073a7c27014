"""Starts the local AWS (ministack) with the parts of API Gateway's WebSocket APIs that it lacks.

AWS takes text around a variable in a route selection expression, answers a message only on a route that has a route
response, and then answers it with an empty message where the function returns no body (serverless/serverless#6816).
ministack 1.5.33 sends everything to $default, answers on every route, and has no AWS::ApiGatewayV2::RouteResponse.
https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-selection-expressions.html
"""

import json
import re

from ministack.app import main
from ministack.services import apigateway
from ministack.services.cloudformation import provisioners

VARIABLE = re.compile(r"\$\{request\.body\.([\w.]+)\}|\$request\.body\.([\w.]+)")


def select_route(expression, text):
    """The key of a message's route; $default where the expression cannot be evaluated."""
    try:
        body = json.loads(text)
    except ValueError:
        return "$default"

    def value(variable):
        found = body
        for name in (variable[1] or variable[2]).split("."):
            found = found[name]
        return found if isinstance(found, str) else json.dumps(found)

    try:
        return VARIABLE.sub(value, expression)
    except (KeyError, TypeError, IndexError):
        return "$default"


invoke = apigateway._invoke_ws_lambda


async def invoke_and_answer_if_asked(api_id, account_id, region, route, stage, connection_id, event_type, *rest, **named):
    """What the function returns is sent back by the caller, if it has a body."""
    result = await invoke(api_id, account_id, region, route, stage, connection_id, event_type, *rest, **named)
    if event_type != "MESSAGE":
        return result
    if not apigateway._route_responses.get(api_id, {}).get(route["routeId"]):
        return None
    if not (result or {}).get("body"):
        # Its connection may be gone by now.
        if connection := apigateway._ws_connections.get(connection_id):
            connection["outbox"].put_nowait("")
    return result


def create_route_response(logical_id, properties, stack_name):
    """A route's Ref is API/ROUTE here."""
    api_id, route_id = properties["ApiId"], properties["RouteId"].rpartition("/")[2]
    key = {"routeResponseKey": properties["RouteResponseKey"]}
    status, _, body = apigateway._create_route_response(api_id, route_id, key)
    if status != 201:
        raise ValueError(f"AWS::ApiGatewayV2::RouteResponse create failed: {body!r}")
    return f"{api_id}/{route_id}/{json.loads(body)['routeResponseId']}", {}


def delete_route_response(physical_id, properties):
    """Deletes it with its route or before."""
    apigateway._delete_route_response(*physical_id.split("/"))


if __name__ == "__main__":
    apigateway._evaluate_route_selection = select_route
    apigateway._invoke_ws_lambda = invoke_and_answer_if_asked
    provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::RouteResponse"] = {
        "create": create_route_response,
        "delete": delete_route_response,
    }
    main()
