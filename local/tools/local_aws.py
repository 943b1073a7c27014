"""Starts the local AWS (ministack), and adds missing features of API Gateway's WebSocket APIs.

AWS supports text around a variable in a route selection expression. It responds to a message only on a route with a
route response, with an empty message if the function returns no body (serverless/serverless#6816). ministack 1.5.33
sends all messages to $default, responds on every route, and does not support AWS::ApiGatewayV2::RouteResponse.
https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-selection-expressions.html
"""

import json
import re

from ministack.app import main
from ministack.services import apigateway
from ministack.services.cloudformation import provisioners

VARIABLE = re.compile(r"\$\{request\.body\.([\w.]+)\}|\$request\.body\.([\w.]+)")


def select_route(expression, text):
    """The route key of a message, or $default if the expression cannot be evaluated."""
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


async def invoke_and_respond(api_id, account_id, region, route, stage, connection_id, event_type, *rest, **named):
    """Adds the empty response, and removes the response of other routes. The caller sends a body that the function returns."""
    result = await invoke(api_id, account_id, region, route, stage, connection_id, event_type, *rest, **named)
    if event_type != "MESSAGE":
        return result
    if not apigateway._route_responses.get(api_id, {}).get(route["routeId"]):
        return None
    if not (result or {}).get("body"):
        # The connection may be closed by now.
        if connection := apigateway._ws_connections.get(connection_id):
            connection["outbox"].put_nowait("")
    return result


def create_route_response(logical_id, properties, stack_name):
    """In ministack, the Ref of a route is API/ROUTE."""
    api_id, route_id = properties["ApiId"], properties["RouteId"].rpartition("/")[2]
    key = {"routeResponseKey": properties["RouteResponseKey"]}
    status, _, body = apigateway._create_route_response(api_id, route_id, key)
    if status != 201:
        raise ValueError(f"AWS::ApiGatewayV2::RouteResponse create failed: {body!r}")
    return f"{api_id}/{route_id}/{json.loads(body)['routeResponseId']}", {}


def delete_route_response(physical_id, properties):
    """The route may be deleted already."""
    apigateway._delete_route_response(*physical_id.split("/"))


if __name__ == "__main__":
    apigateway._evaluate_route_selection = select_route
    apigateway._invoke_ws_lambda = invoke_and_respond
    provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::RouteResponse"] = {
        "create": create_route_response,
        "delete": delete_route_response,
    }
    main()
