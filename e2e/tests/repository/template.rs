//! Rules that `template.yaml` and `events/` must keep, and that cfn-lint and checkov do not check: least privilege,
//! limits, secrets, and what depends on parameters.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ringback::auth::Tokens;
use ringback::platform::config::{ConfigError, Environment};
use ringback::platform::secrets::{AppSecret, Secret};
use ringback_e2e::cloudformation::{Template, as_written, each, referred};
use ringback_local::events::{EventFile, documented_secrets};
use ringback_local::settings::variable_name;
use serde_json::{Value, json};

/// Functions that handle calls. Each may have to set a timer, send a push and control channels.
const CALL_HANDLERS: [&str; 5] = [
    "asterisk-incoming",
    "call-response",
    "call-timeout",
    "exotel-webhook",
    "ws-message",
];

#[test]
fn the_template_deploys_exactly_the_functions_of_the_workspace() -> Result<()> {
    let template = template()?;
    let deployed: BTreeSet<String> = template
        .functions()
        .into_keys()
        .map(str::to_owned)
        .collect();
    let in_workspace: BTreeSet<String> = std::fs::read_dir(repository().join("functions"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    assert_eq!(deployed, in_workspace);
    assert_eq!(
        deployed.len(),
        template.resources("AWS::Serverless::Function").count(),
        "a function has no Binary"
    );
    Ok(())
}

#[test]
fn policies_name_their_actions_and_resources() -> Result<()> {
    // Only the names of things that are created at run time end in a wildcard. The resource that contains them is named.
    let created_at_run_time = [
        // A connection of a client.
        "${WebSocketApi}/exotel-stream/POST/@connections/*",
        // A schedule of a call.
        "schedule/${CallSchedules}/*",
        // An endpoint of a registered device.
        "endpoint/${PlatformAndName}/*",
    ];
    for (holder, statement) in deployments()?.iter().flat_map(Template::statements) {
        for action in each(&statement["Action"]).map(as_written) {
            let is_named = action.contains(':') && !action.contains('*');
            assert!(is_named, "{holder} allows {action}");
        }
        for resource in each(&statement["Resource"]).map(as_written) {
            let mut ends = created_at_run_time.iter();
            let is_named = !resource.contains('*')
                || statement["Sid"] == NETWORK_INTERFACES
                || ends.any(|end| resource.ends_with(end));
            assert!(is_named && !resource.is_empty(), "{holder}: {resource}");
        }
        for negation in ["NotAction", "NotResource"] {
            assert!(statement[negation].is_null(), "{holder} has a {negation}");
        }
    }
    Ok(())
}

#[test]
fn each_function_may_use_exactly_the_resources_in_its_environment() -> Result<()> {
    let kinds = [
        ("secretsmanager:", "AWS::SecretsManager::Secret"),
        ("dynamodb:", "AWS::DynamoDB::GlobalTable"),
        ("iam:", "AWS::IAM::Role"),
    ];
    for (name, function) in deployments()?.iter().flat_map(Template::functions) {
        for (action, kind) in kinds {
            assert_eq!(
                function.may(action),
                function.environment_resources(kind),
                "{name}: {kind}"
            );
        }
        // A function may also use the queue that invokes it, and its dead-letter queue.
        let queues = function.may("sqs:");
        let in_environment = function.environment_resources("AWS::SQS::Queue");
        assert!(queues.is_superset(&in_environment), "{name}: {queues:?}");
    }
    Ok(())
}

#[test]
fn each_function_has_its_own_role_and_only_call_handlers_share_a_policy() -> Result<()> {
    let template = template()?;
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut sharers: BTreeSet<&str> = BTreeSet::new();
    for (name, function) in template.functions() {
        let role = referred(&function.properties["Role"]).context(format!("{name}'s role"))?;
        users.entry(role).or_default().push(name);
        for policy in each(&template.resource(role)["Properties"]["ManagedPolicyArns"]) {
            // A policy from outside the template would have no reference.
            assert_eq!(referred(policy), Some("CallHandlingPolicy"), "{name}");
            sharers.insert(name);
        }
    }
    assert_eq!(sharers, CALL_HANDLERS.into());
    for (role, properties) in template.resources("AWS::IAM::Role") {
        let trusted = &properties["AssumeRolePolicyDocument"]["Statement"];
        assert_eq!(each(trusted).count(), 1, "{role}");
        let (service, functions) = match role {
            "SchedulerRole" => ("scheduler.amazonaws.com", 0),
            _ => ("lambda.amazonaws.com", 1),
        };
        assert_eq!(trusted[0]["Principal"], json!({ "Service": service }));
        assert_eq!(users.get(role).map_or(0, Vec::len), functions, "{role}");
    }
    Ok(())
}

/// Limits what an attacker who controls a function can do to the table.
#[test]
fn each_function_may_do_to_the_table_only_what_it_does() -> Result<()> {
    let handle_calls = "GetItem Query PutItem UpdateItem DeleteItem";
    let others = [
        // Takes a rate token, writes the device and the owner of its address, finds and deletes the oldest device. Reads and
        // writes SIP accounts.
        ("devices", "GetItem UpdateItem PutItem Query DeleteItem"),
        // Reads a call or listed calls, resets missed calls, and takes a rate token before it waits for a call of the other region.
        (
            "call-status",
            "GetItem BatchGetItem Query UpdateItem DeleteItem",
        ),
        ("health", "GetItem"),
        ("smoke", ""),
        ("push-test", "Query"),
        // Lists routes and the devices of their extensions.
        ("doctor", "Query"),
        // Reads accounts, their devices and the jobs of PBXs, and deletes jobs that are done.
        ("sip-accounts", "Query GetItem DeleteItem"),
        // Reads, lists and changes entries, and adds to the audit trail.
        ("admin", "GetItem Query PutItem DeleteItem"),
        ("ws-connect", "PutItem"),
        // Reads the calls in progress, counts posts, and deletes a client that has gone.
        ("ws-replay", "Query BatchGetItem UpdateItem DeleteItem"),
        ("ws-disconnect", "DeleteItem"),
        ("ws-authorizer", ""),
        ("console", ""),
        // Finds connections, deletes closed ones, counts posts, lists calls and those in progress, and reads the stream of changes.
        (
            "broadcast",
            "Query GetItem PutItem DeleteItem UpdateItem DescribeStream GetRecords GetShardIterator ListStreams",
        ),
    ];
    let handlers = CALL_HANDLERS.map(|name| (name, handle_calls));
    let expected: BTreeMap<&str, &str> = handlers.into_iter().chain(others).collect();
    for (name, function) in deployments()?.iter().flat_map(Template::functions) {
        let allowed: BTreeSet<&str> = function
            .actions()
            .into_iter()
            .filter_map(|action| action.strip_prefix("dynamodb:"))
            .collect();
        let expected = expected.get(name).context(name.to_owned())?;
        assert_eq!(allowed, expected.split_whitespace().collect(), "{name}");
    }
    Ok(())
}

#[test]
fn each_secret_is_readable_only_by_the_functions_that_need_it() -> Result<()> {
    let template = template()?;
    let users_of_ari = CALL_HANDLERS.iter().copied().chain([
        "health",
        "devices",
        "sip-accounts",
        "smoke",
        "doctor",
    ]);
    let expected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([
        // Functions that check the tokens of apps.
        (
            "AppSecret",
            [
                "admin",
                "call-response",
                "call-status",
                "devices",
                "ws-authorizer",
            ]
            .into(),
        ),
        ("WebhookSecret", ["exotel-webhook", "ws-authorizer"].into()),
        ("HookSecret", ["asterisk-incoming"].into()),
        (
            "ExotelSecret",
            ["call-timeout", "ws-message", "doctor"].into(),
        ),
        // Functions that create or check call ids, or send pushes.
        (
            "SigningSecret",
            CALL_HANDLERS
                .iter()
                .copied()
                .chain(["call-status"])
                .collect(),
        ),
        (
            "FcmSecret",
            CALL_HANDLERS
                .iter()
                .copied()
                .chain(["push-test", "doctor"])
                .collect(),
        ),
        ("AsteriskSecret", users_of_ari.collect()),
    ]);
    let mut readers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, function) in template.functions() {
        for secret in function.may("secretsmanager:") {
            readers.entry(secret).or_default().insert(name);
        }
        let mut actions = function.actions().into_iter();
        assert!(
            actions.all(|action| !action.starts_with("secretsmanager:")
                || action == "secretsmanager:GetSecretValue"),
            "{name}"
        );
    }
    assert_eq!(readers, expected);
    Ok(())
}

#[test]
fn the_scheduler_may_only_invoke_call_timeout() -> Result<()> {
    let template = template()?;
    let statements = template.statements().into_iter();
    let allowed: Vec<&Value> = statements
        .filter(|(id, _)| *id == "SchedulerRole")
        .map(|(_, statement)| statement)
        .collect();
    let [statement] = allowed[..] else {
        bail!("{} statements", allowed.len())
    };
    assert_eq!(statement["Action"], "lambda:InvokeFunction");
    let function = as_written(&statement["Resource"]);
    assert!(function.ends_with(":function:${AWS::StackName}-call-timeout"));
    let role = &template.resource("SchedulerRole")["Properties"];
    let trust = &role["AssumeRolePolicyDocument"]["Statement"][0]["Condition"]["StringEquals"];
    let group = json!({ "Fn::GetAtt": ["CallSchedules", "Arn"] });
    assert_eq!(trust["aws:SourceArn"], group);
    Ok(())
}

#[test]
fn every_function_logs_only_into_its_own_group() -> Result<()> {
    let template = template()?;
    for (name, function) in template.functions() {
        let group = referred(&function.properties["LoggingConfig"]["LogGroup"])
            .context(format!("{name}'s log group"))?;
        assert_eq!(
            as_written(&template.resource(group)["Properties"]["LogGroupName"]),
            format!("/aws/lambda/${{AWS::StackName}}-{name}")
        );
        assert_eq!(function.may("logs:"), [group].into(), "{name}");
        let needed = BTreeSet::from(["logs:CreateLogStream", "logs:PutLogEvents"]);
        assert!(function.actions().is_superset(&needed), "{name}");
    }
    Ok(())
}

/// Exotel's secret is part of its URLs.
#[test]
fn the_access_log_contains_no_urls() -> Result<()> {
    let template = template()?;
    for (id, stage) in template.resources("AWS::ApiGatewayV2::Stage") {
        let api = referred(&stage["ApiId"]).context(format!("{id}'s API"))?;
        let log = &stage["AccessLogSettings"];
        if template.resource(api)["Properties"]["ProtocolType"] == "WEBSOCKET" {
            // It would need a role in the account's settings.
            assert!(log.is_null(), "{id} has an access log");
            continue;
        }
        let format = log["Format"].as_str().context(format!("{id}'s log"))?;
        let line: Value = serde_json::from_str(format).context("an access log line")?;
        assert!(line.is_object());
        for secret in [
            "queryString",
            "$context.path",
            "requestOverride",
            "authorizer",
        ] {
            assert!(!format.contains(secret), "{id} logs {secret}");
        }
    }
    Ok(())
}

/// CloudFormation generates a new value when the text of `GenerateSecretString` changes. The secrets that people supply have
/// no value in the template. Generated values are long, and fit into a URL.
#[test]
fn a_deployment_overwrites_no_secret() -> Result<()> {
    let generated = |key: &str| {
        json!({
            "SecretStringTemplate": "{}", "GenerateStringKey": key, "PasswordLength": 48,
            "ExcludeCharacters": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        })
    };
    let expected = BTreeMap::from([
        ("AppSecret", generated("jwt_secret")),
        ("AsteriskSecret", Value::Null),
        ("ExotelSecret", Value::Null),
        ("FcmSecret", Value::Null),
        ("HookSecret", generated("hook_secret")),
        ("SigningSecret", generated("signing_secret")),
        ("WebhookSecret", generated("webhook_secret")),
    ]);
    let template = template()?;
    let mut actual = BTreeMap::new();
    for (id, secret) in template.resources("AWS::SecretsManager::Secret") {
        assert!(secret["SecretString"].is_null(), "{id} has a value");
        actual.insert(id, secret["GenerateSecretString"].clone());
    }
    assert_eq!(actual, expected);
    Ok(())
}

#[test]
fn only_the_authorizer_lets_a_client_connect() -> Result<()> {
    let template = template()?;
    let (_, connect) = template
        .resources("AWS::ApiGatewayV2::Route")
        .find(|(_, route)| route["RouteKey"] == "$connect")
        .context("$connect")?;
    assert_eq!(connect["AuthorizationType"], "CUSTOM");
    let authorizer = referred(&connect["AuthorizerId"]).context("$connect's authorizer")?;
    let properties = &template.resource(authorizer)["Properties"];
    let function = template.function_at(&properties["AuthorizerUri"]);
    assert_eq!(function, Some("ws-authorizer"));
    // A client may use either a header or a query parameter.
    assert_eq!(properties["IdentitySource"], json!([]));
    // AWS refuses both for WebSocket APIs, which do not cache the result.
    for refused in [
        "AuthorizerResultTtlInSeconds",
        "AuthorizerPayloadFormatVersion",
    ] {
        assert!(properties[refused].is_null(), "{refused}");
    }
    Ok(())
}

/// API Gateway's known quotas of requests per second, and the default of posts to clients per second.
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html>
const QUOTAS: [(&str, f64, &str); 2] = [("10000", 10_000.0, "2000"), ("2500", 2_500.0, "500")];

#[test]
fn the_limits_of_all_routes_and_posts_are_within_the_quota() -> Result<()> {
    for (parameter, quota, posts) in QUOTAS {
        let template = deployed_with(&[&[("AccountRequestsPerSecond", parameter)]])?;
        let requests = sum_of_limits(&template)?;
        assert!(
            requests + posts.parse::<f64>()? <= quota,
            "{requests} requests and {posts} posts are more than {quota}"
        );
        assert_eq!(posts_per_second(&template)?, posts);
    }
    let chosen = deployed_with(&[&[("PostsPerSecond", "700")]])?;
    let parameter = json!({ "Ref": "PostsPerSecond" });
    assert_eq!(posts_per_second(&chosen)?, parameter);
    Ok(())
}

fn posts_per_second(template: &Template) -> Result<Value> {
    let functions = template.functions();
    let [changes, replays] = ["broadcast", "ws-replay"]
        .map(|name| functions[name].environment()["POSTS_PER_SECOND"].clone());
    assert_eq!(changes, replays);
    Ok(changes)
}

/// The sum of the limits of all routes. Each route has a limit, and each limit a route that exists before it.
fn sum_of_limits(template: &Template) -> Result<f64> {
    let mut sum = 0.0;
    for (id, stage) in template.resources("AWS::ApiGatewayV2::Stage") {
        let settings = stage["RouteSettings"].as_object();
        let settings = settings.context(format!("{id}'s RouteSettings"))?;
        let depends_on = each(&template.resource(id)["DependsOn"]).filter_map(Value::as_str);
        let description = stage["Description"]["Fn::Sub"].as_str();
        let in_description = description.unwrap_or_default().split("${").skip(1);
        let in_description = in_description.filter_map(|rest| rest.split('}').next());
        let created_before: BTreeSet<&str> = depends_on.chain(in_description).collect();
        let mut routes = BTreeSet::new();
        for (route, properties) in template.resources("AWS::ApiGatewayV2::Route") {
            if properties["ApiId"] != stage["ApiId"] {
                continue;
            }
            assert!(created_before.contains(route), "{id}: {route}");
            let key = properties["RouteKey"].as_str().context(route.to_owned())?;
            routes.insert(key);
            sum += limit(&settings[key]).context(key.to_owned())?;
        }
        let limited: BTreeSet<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(limited, routes, "{id}");
        sum += limit(&stage["DefaultRouteSettings"])?;
    }
    Ok(sum)
}

/// A route's limit in requests per second. Its burst must last for half a second, and it must have its own metrics.
fn limit(setting: &Value) -> Result<f64> {
    let number = |name: &str| setting[name].as_f64().context(name.to_owned());
    let (rate, burst) = (
        number("ThrottlingRateLimit")?,
        number("ThrottlingBurstLimit")?,
    );
    ensure!(rate >= 1.0 && burst >= rate / 2.0, "{setting}");
    ensure!(setting["DetailedMetricsEnabled"] == true, "{setting}");
    Ok(rate)
}

#[test]
fn apps_and_streams_leave_most_of_the_quota_to_the_pbx_and_exotel() -> Result<()> {
    for (parameter, quota, _) in QUOTAS {
        let template = deployed_with(&[&[("AccountRequestsPerSecond", parameter)]])?;
        let settings = |stage: &str| {
            let settings = &template.resource(stage)["Properties"]["RouteSettings"];
            settings.as_object().cloned().context(stage.to_owned())
        };
        let websocket = settings("WebSocketStage")?;
        assert!(limit(&websocket["$default"])? <= quota * 0.2);
        assert!(limit(&websocket["message/call_response"])? >= quota * 0.02);
        let (mut apps, mut hooks) = (Vec::new(), Vec::new());
        for (key, setting) in &settings("HttpStage")? {
            let (limit, (_, path)) = (limit(setting)?, key.split_once(' ').context("a path")?);
            match path {
                _ if path.starts_with("/api/") => apps.push(limit),
                // The PBX reports a call on each hook once or twice.
                _ if path.starts_with("/asterisk/") => {
                    assert!(limit >= quota / 12.5, "{key} at {quota}");
                    hooks.push(limit);
                }
                "/exotel/webhook" => hooks.push(limit),
                "/exotel/voicebot" => assert!(limit >= quota * 0.005, "{limit}"),
                // Route 53 sends a request every 10 s from about 16 places to each of two endpoints. Allow 11 times that.
                "/health" => assert!(limit >= 2.0 * 16.0 / 10.0 * 11.0, "{limit}"),
                _ => ensure!(path == "/" || path == "/console/{file}", "{path}"),
            }
        }
        let least = hooks.iter().copied().fold(f64::INFINITY, f64::min);
        let within = apps.iter().all(|limit| *limit <= least);
        assert!(!apps.is_empty() && within, "{apps:?} {hooks:?}");
    }
    Ok(())
}

/// The defaults protect a deployment that sets nothing, and reach the function that applies them.
#[test]
fn limits_of_an_extension_have_safe_defaults_and_bounds() -> Result<()> {
    let template = template()?;
    let limits = [
        ("CallsPerMinute", "ws-message", json!(10), 1, 600),
        ("CallsAtOnce", "ws-message", json!(5), 1, 100),
        (
            "ConcurrentCallsPerExtension",
            "ws-message",
            json!(3),
            1,
            100,
        ),
        ("PhoneCallsPerDay", "ws-message", json!(100), 1, 10_000),
        (
            "MaxPhoneCallSeconds",
            "ws-message",
            json!(3_600),
            60,
            14_400,
        ),
        ("CallerIdPolicy", "ws-message", json!("own"), 0, 0),
        ("AllowedPrefixes", "ws-message", json!(""), 0, 0),
        ("RegistrationsPerMinute", "devices", json!(6), 1, 600),
        ("RegistrationsAtOnce", "devices", json!(10), 1, 100),
        ("MaxDevicesPerExtension", "devices", json!(5), 1, 20),
        (
            "SipAccountSeconds",
            "devices",
            json!(2_592_000),
            60,
            31_536_000,
        ),
        // SQS delays a message for at most 900 s.
        ("ExotelCheckSeconds", "call-timeout", json!(300), 10, 900),
    ];
    let functions = template.functions();
    for (name, function, default, min, max) in limits {
        let (_, parameter) = template
            .parameters()
            .find(|(parameter, _)| *parameter == name)
            .context(name)?;
        assert_eq!(parameter["Default"], default, "{name}");
        if max > 0 {
            let bounds = (&parameter["MinValue"], &parameter["MaxValue"]);
            assert_eq!(bounds, (&json!(min), &json!(max)), "{name}");
        }
        let variable = variable_name(name);
        let environment = functions[function].environment();
        let value = environment.get(variable.as_str()).context(variable)?;
        assert_eq!(referred(value), Some(name));
    }
    Ok(())
}

#[test]
fn every_parameter_has_a_description_and_a_constraint() -> Result<()> {
    for (name, parameter) in template()?.parameters() {
        let description = parameter["Description"].as_str();
        assert!(description.is_some_and(|text| text.len() > 20), "{name}");
        let mut constraints = ["AllowedPattern", "AllowedValues", "MinValue"].iter();
        assert!(constraints.any(|one| !parameter[one].is_null()), "{name}");
    }
    Ok(())
}

/// `events.rs` checks the opposite: it runs each function with only the variables of the template.
#[test]
fn every_variable_of_a_function_is_read_in_the_code() -> Result<()> {
    let code = sources(&repository().join("shared"))? + &sources(&repository().join("functions"))?;
    for (name, function) in template()?.functions() {
        for variable in function.environment().into_keys() {
            let is_read = code.contains(&format!("\"{variable}\""));
            assert!(is_read, "{name}'s {variable}");
        }
    }
    Ok(())
}

/// All Rust code below a folder, without its tests.
fn sources(folder: &Path) -> Result<String> {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all += &sources(&path)?;
        } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&path)?;
            all += text
                .split("\n#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
        }
    }
    Ok(all)
}

#[test]
fn the_webhook_url_is_the_route_at_the_address_of_the_api() -> Result<()> {
    let domain = ("HttpDomainName", "calls.example.com");
    let proxy = ("PublicHttpUrl", "https://proxy.example.com");
    let own = "https://${HttpApi}.execute-api.${AWS::Region}.";
    // Exotel's reports may arrive in either region. The URL that people enter in Exotel is one region's, because Exotel
    // itself tries the other region.
    let deployments: [(&[_], &str, &str); 3] = [
        (&[], own, own),
        (&[domain], "https://${HttpDomainName}", own),
        (&[domain, proxy], "${PublicHttpUrl}", "${PublicHttpUrl}"),
    ];
    for (parameters, reported_to, entered) in deployments {
        let template = deployed_with(&[parameters])?;
        let (_, path) = template
            .resources("AWS::ApiGatewayV2::Route")
            .filter_map(|(_, route)| route["RouteKey"].as_str()?.split_once(' '))
            .find(|(method, path)| *method == "POST" && path.starts_with("/exotel/"))
            .context("the webhook's route")?;
        let environment = template.functions()["ws-message"].environment();
        for (url, base) in [
            (environment["EXOTEL_WEBHOOK_URL"], reported_to),
            (template.output("ExotelWebhookUrl"), entered),
        ] {
            let url = as_written(url);
            assert!(url.starts_with(base) && url.ends_with(path), "{url}");
        }
        // Apps answer a push in either region, too.
        for name in CALL_HANDLERS {
            let environment = template.functions()[name].environment();
            let url = as_written(environment["HTTP_URL"]);
            assert!(url.starts_with(reported_to), "{name}: {url}");
        }
    }
    Ok(())
}

/// checkov checks its point-in-time recovery.
#[test]
fn the_table_is_encrypted_outlives_its_stack_and_deletes_expired_items() -> Result<()> {
    let template = template()?;
    let table = template.resource("CallsTable");
    assert_eq!(table["DeletionPolicy"], "RetainExceptOnCreate");
    assert_eq!(table["UpdateReplacePolicy"], "Retain");
    let properties = &table["Properties"];
    assert_eq!(properties["SSESpecification"]["SSEEnabled"], true);
    assert_eq!(
        properties["TimeToLiveSpecification"],
        json!({ "AttributeName": "expires_at", "Enabled": true })
    );
    Ok(())
}

#[test]
fn only_the_table_depends_on_the_regions() -> Result<()> {
    let one_region = template()?;
    let primary = deployed_with(&[PRIMARY])?;
    assert_eq!(primary.ids(), one_region.ids());
    let regions = |template: &Template| -> Vec<String> {
        let table = &template.resource("CallsTable")["Properties"];
        let replicas = each(&table["Replicas"]);
        replicas
            .map(|replica| as_written(&replica["Region"]))
            .collect()
    };
    assert_eq!(regions(&one_region), ["${AWS::Region}"]);
    assert_eq!(regions(&primary), ["${AWS::Region}", "${OtherRegion}"]);

    // A second region uses the replica. A single region can use the table that a deleted stack has left.
    for existing in [FALLBACK, &FALLBACK[1..]] {
        assert!(refused(existing)?.is_empty());
        let template = deployed_with(&[existing])?;
        let mut without_table = one_region.ids();
        assert!(without_table.remove("CallsTable"));
        assert_eq!(template.ids(), without_table);
        let functions = template.functions();
        for (name, function) in &functions {
            if let Some(table) = function.environment().get("TABLE_NAME") {
                assert_eq!(referred(table), Some("ExistingTableName"), "{name}");
            }
        }
        let events = &functions["broadcast"].properties["Events"];
        let stream = as_written(&events["CallChanged"]["Properties"]["Stream"]);
        let expected = ":table/${ExistingTableName}/stream/${ExistingTableStreamLabel}";
        assert!(stream.ends_with(expected), "{stream}");
    }
    Ok(())
}

#[test]
fn broadcast_sets_timers_in_every_deployment() -> Result<()> {
    let actions = BTreeSet::from(["iam:PassRole", "scheduler:CreateSchedule"]);
    let variables = [
        "TIMEOUT_QUEUE_URL",
        "TIMEOUT_FUNCTION_ARN",
        "SCHEDULE_GROUP",
        "SCHEDULER_ROLE_ARN",
    ];
    for parameters in [ONE_REGION, PRIMARY, FALLBACK] {
        let template = deployed_with(&[parameters])?;
        let functions = template.functions();
        let broadcast = &functions["broadcast"];
        assert!(broadcast.actions().is_superset(&actions));
        assert!(broadcast.may("sqs:").contains("TimeoutQueue"));
        for variable in variables {
            let is_set = broadcast.environment().contains_key(variable);
            assert!(is_set, "{variable}");
        }
    }
    Ok(())
}

#[test]
fn functions_that_look_up_calls_know_the_other_region() -> Result<()> {
    let expected = CALL_HANDLERS.iter().chain(&["broadcast", "call-status"]);
    let expected: BTreeSet<&str> = expected.copied().collect();
    for template in deployments()? {
        let functions = template.functions().into_iter();
        let actual: BTreeSet<&str> = functions
            .filter(|(_, function)| {
                let environment = function.environment();
                let region = environment.get("OTHER_REGION");
                region.and_then(|value| referred(value)) == Some("OtherRegion")
            })
            .map(|(name, _)| name)
            .collect();
        assert_eq!(actual, expected);
    }
    Ok(())
}

#[test]
fn domains_and_their_records_are_created_only_on_request() -> Result<()> {
    let without = |name: &str| -> Vec<_> {
        let parameters = DOMAINS.iter().copied();
        parameters.filter(|(given, _)| *given != name).collect()
    };
    let (no_zone, http_only) = (without("HostedZoneId"), without("WebSocketDomainName"));
    let domains = "HttpDomain HttpMapping WebSocketDomain WebSocketMapping";
    let records = &format!("{domains} HttpRecord WebSocketRecord");
    let failover = &format!("{records} HealthCheck");
    let primary: &[_] = &[("FailoverRole", "PRIMARY")];
    let cases: [(&[&[_]], &str); 4] = [
        (&[&no_zone], domains),
        (&[DOMAINS], records),
        (&[DOMAINS, PRIMARY, primary], failover),
        (
            &[&http_only, PRIMARY, &[("FailoverRole", "SECONDARY")]],
            "HttpDomain HttpMapping HttpRecord HealthCheck",
        ),
    ];
    let one_region = template()?;
    for (parameters, expected) in cases {
        let template = deployed_with(parameters)?;
        let ids = template.ids();
        assert!(ids.is_superset(&one_region.ids()));
        let added: BTreeSet<&str> = ids.difference(&one_region.ids()).copied().collect();
        assert_eq!(added, expected.split(' ').collect(), "{parameters:?}");
    }
    Ok(())
}

#[test]
fn a_domain_has_the_paths_of_the_apis_own_address() -> Result<()> {
    let template = deployed_with(&[DOMAINS])?;
    let path_of = |mapping: &str| template.resource(mapping)["Properties"]["ApiMappingKey"].clone();
    assert_eq!(path_of("HttpMapping"), Value::Null);
    let stage = &template.resource("WebSocketStage")["Properties"]["StageName"];
    assert_eq!(path_of("WebSocketMapping"), *stage);
    // Exotel and the PBX try one region and then the other themselves, and do not wait for DNS.
    for (output, start) in [
        ("WebSocketUrl", "wss://${WebSocketDomainName}/"),
        ("HttpUrl", "https://${HttpDomainName}"),
        ("RegionalHttpUrl", "https://${HttpApi}."),
        ("ExotelWebhookUrl", "https://${HttpApi}."),
    ] {
        let url = as_written(template.output(output));
        assert!(url.starts_with(start), "{output}: {url}");
    }
    Ok(())
}

#[test]
fn a_name_leads_to_the_other_region_within_90_seconds() -> Result<()> {
    for role in ["PRIMARY", "SECONDARY"] {
        let template = deployed_with(&[DOMAINS, PRIMARY, &[("FailoverRole", role)]])?;
        let check = &template.resource("HealthCheck")["Properties"]["HealthCheckConfig"];
        // The custom domain may lead to the other region, so the check uses the API's own address.
        let checked = as_written(&check["FullyQualifiedDomainName"]);
        assert!(checked.starts_with("${HttpApi}.execute-api.${AWS::Region}."));
        assert_eq!(
            (&check["Type"], &check["ResourcePath"], &check["EnableSNI"]),
            (&json!("HTTPS"), &json!("/health"), &json!(true))
        );
        let seconds = |name: &str| check[name].as_u64().context(name.to_owned());
        let until_noticed = seconds("RequestInterval")? * (seconds("FailureThreshold")? + 1);
        // Resolvers may cache an alias record to API Gateway for a minute.
        assert!(until_noticed + 60 <= 90, "{until_noticed} s");
        let expected = json!({
            "HealthCheckId": { "Ref": "HealthCheck" },
            "Failover": { "Ref": "FailoverRole" },
            "SetIdentifier": { "Ref": "AWS::Region" },
        });
        for (id, record) in template.resources("AWS::Route53::RecordSet") {
            for (name, value) in expected.as_object().into_iter().flatten() {
                assert_eq!(record[name], *value, "{id}");
            }
        }
    }
    let alone = deployed_with(&[DOMAINS])?;
    for (id, record) in alone.resources("AWS::Route53::RecordSet") {
        for name in ["Failover", "SetIdentifier", "HealthCheckId"] {
            assert!(record[name].is_null(), "{id}: {name}");
        }
    }
    Ok(())
}

#[test]
fn a_deployment_without_the_console_has_nothing_of_it() -> Result<()> {
    let (with, without) = (template()?, deployed_with(&[&[("ConsolePage", "no")]])?);
    let mut expected = with.ids();
    expected.retain(|id| !id.contains("Console"));
    assert_eq!(without.ids(), expected);
    let routes = &without.resource("HttpStage")["Properties"]["RouteSettings"];
    assert!(routes["GET /"].is_null() && routes["GET /console/{file}"].is_null());
    Ok(())
}

#[test]
fn pages_of_other_origins_need_a_parameter() -> Result<()> {
    let cors = |template: &Template| {
        template.resource("HttpApi")["Properties"]["CorsConfiguration"].clone()
    };
    assert!(cors(&template()?).is_null());
    let origins = [(
        "AllowedOrigins",
        "https://app.example.com,http://localhost:8100",
    )];
    let allowed = cors(&deployed_with(&[&origins])?);
    // Credentials are cookies, which the API does not use.
    assert!(allowed["AllowCredentials"].is_null());
    assert_eq!(
        allowed["AllowHeaders"],
        json!(["authorization", "content-type", "if-match", "if-none-match"])
    );
    assert_eq!(refused(&[origins[0]])?, [""; 0]);
    assert_eq!(refused(&[("AllowedOrigins", "*")])?, [""; 0]);
    for wrong in [
        "https://app.example.com/",
        "app.example.com",
        "https://a.example, https://b.example",
        "null",
    ] {
        assert_eq!(refused(&[("AllowedOrigins", wrong)])?.len(), 1, "{wrong}");
    }
    Ok(())
}

/// The content security policy of the page allows only this address.
#[test]
fn the_console_gets_the_address_of_the_websocket_api() -> Result<()> {
    let url = |template: &Template| {
        let environment = template.functions()["console"].environment();
        as_written(environment["WEBSOCKET_URL"])
    };
    for parameters in [ONE_REGION, DOMAINS] {
        let template = deployed_with(&[parameters])?;
        assert_eq!(url(&template), as_written(template.output("WebSocketUrl")));
    }
    let emulator = "http://127.0.0.1:4566/_aws/execute-api";
    let emulated = deployed_with(&[&[("LocalApiGatewayUrl", emulator)]])?;
    assert_eq!(url(&emulated), "");
    Ok(())
}

/// Otherwise Route 53 or API Gateway would refuse it in the middle of a deployment.
#[test]
fn a_missing_parameter_is_refused_before_anything_is_created() -> Result<()> {
    let certificate = (
        "CertificateArn",
        "arn:aws:acm:ap-south-1:000000000000:certificate/1",
    );
    let [subnets, groups] = [IN_VPC[0], IN_VPC[1]];
    for (given, needed) in [
        (FALLBACK[1], FALLBACK[2]),
        (("HttpDomainName", "calls.example.com"), certificate),
        (("WebSocketDomainName", "live.example.com"), certificate),
        (("FailoverRole", "PRIMARY"), ("HostedZoneId", "Z0123456789")),
        (subnets, groups),
        (groups, subnets),
    ] {
        assert_eq!(refused(&[given])?.len(), 1, "{given:?} without {needed:?}");
        assert_eq!(refused(&[given, needed])?, [""; 0]);
    }
    Ok(())
}

/// Lambda creates a traced function only if its role may already send traces, so the role refers to the policy.
#[test]
fn a_traced_function_is_created_after_its_permission_to_send_traces() -> Result<()> {
    for (parameter, active) in [("Active", true), ("PassThrough", false)] {
        let template = deployed_with(&[&[("Tracing", parameter)]])?;
        let policy = &template.resource("TracingPolicy")["Properties"];
        assert!(policy["Roles"].is_null(), "the role would exist before it");
        for (name, function) in template.functions() {
            let is_traced = active && function.properties["Tracing"] != "PassThrough";
            let may_send = function.actions().contains("xray:PutTraceSegments");
            assert_eq!(may_send, is_traced, "{name}");
        }
    }
    Ok(())
}

#[test]
fn lambda_keeps_every_log_line_of_the_log_level() -> Result<()> {
    let template = template()?;
    let (_, parameter) = template
        .parameters()
        .find(|(name, _)| *name == "LogLevel")
        .context("LogLevel")?;
    for value in each(&parameter["AllowedValues"]).filter_map(Value::as_str) {
        let mapped = template.mapped("LambdaLogLevel", value, "Level");
        assert_eq!(*mapped, json!(value.to_uppercase()));
    }
    let level = json!({ "Fn::FindInMap": ["LambdaLogLevel", { "Ref": "LogLevel" }, "Level"] });
    // Lambda logs an invocation that fails or times out at WARN or above.
    for value in ["error", "warn", "info"] {
        assert_eq!(
            *template.mapped("LambdaLogLevel", value, "System"),
            json!("WARN")
        );
    }
    let own_lines = json!({ "Fn::FindInMap": ["LambdaLogLevel", { "Ref": "LogLevel" }, "System"] });
    for (name, function) in template.functions() {
        let config = &function.properties["LoggingConfig"];
        assert_eq!(config["LogFormat"], "JSON", "{name}");
        assert_eq!(config["ApplicationLogLevel"], level, "{name}");
        assert_eq!(config["SystemLogLevel"], own_lines, "{name}");
    }
    Ok(())
}

/// The template accepts exactly the token parameters with which the functions start.
#[test]
fn wrong_token_parameters_are_refused_before_anything_is_created() -> Result<()> {
    let urls = [
        "",
        "https://issuer.example/keys",
        "https://issuer.example:65535/keys",
        "https://issuer.example:65536/keys",
        "https://issuer.example:0x50/keys",
        "http://issuer.example/keys",
        "http://127.0.0.1:8080/keys",
        "https://issuer .example/keys",
        "issuer.example/keys",
    ];
    for algorithm in ["HS256", "RS256", "ES256", "none"] {
        for url in urls {
            for issuer in ["", "https://issuer.example"] {
                for audience in ["", "app", "app,other"] {
                    let parameters = [
                        ("TokenAlgorithm", algorithm),
                        ("TokenJwksUrl", url),
                        ("TokenIssuer", issuer),
                        ("TokenAudience", audience),
                    ];
                    let refused = refused(&parameters)?;
                    let started = start_with_tokens(&parameters);
                    assert_eq!(
                        refused.is_empty(),
                        started.is_ok(),
                        "{parameters:?}: {refused:?}, {started:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// Starts the check of tokens with the environment that the template makes of these parameters.
fn start_with_tokens(parameters: &[(&'static str, &'static str)]) -> Result<(), ConfigError> {
    thread_local!(static VARIABLES: RefCell<BTreeMap<String, &'static str>> = RefCell::default());
    let variables = parameters
        .iter()
        .map(|(name, value)| (variable_name(name), *value));
    VARIABLES.replace(variables.collect());
    let environment = Environment::of(|name| {
        VARIABLES.with_borrow(|variables| variables.get(name).map(|value| (*value).to_owned()))
    });
    let secret = Secret::known(AppSecret {
        jwt_secret: "0123456789abcdef0123456789abcdef".into(),
        jwt_secret_previous: None,
    });
    Tokens::from_environment(&environment, secret).map(drop)
}

fn refused(parameters: &[(&str, &str)]) -> Result<Vec<String>> {
    Template::refusals(repository(), parameters)
}

/// What fails in an asynchronous invocation ends in a dead-letter queue, for 14 days.
#[test]
fn asynchronous_failures_are_kept() -> Result<()> {
    let template = template()?;
    let is_queue = |id: &str| template.resource(id)["Type"] == "AWS::SQS::Queue";
    for (name, function) in template.functions() {
        let sources = function.properties["Events"].as_object();
        for (source, event) in sources.into_iter().flatten() {
            let properties = &event["Properties"];
            // The next run does what a failed one has left.
            if event["Type"] == "Schedule" {
                assert_eq!(properties["Schedule"], "rate(1 minute)", "{source}");
                assert_eq!(properties["RetryPolicy"]["MaximumRetryAttempts"], 0);
                continue;
            }
            let reported = &properties["FunctionResponseTypes"];
            assert_eq!(*reported, json!(["ReportBatchItemFailures"]), "{source}");
            let kept = match event["Type"].as_str() {
                Some("SQS") => {
                    let queue = referred(&properties["Queue"]).context(source.clone())?;
                    let queue = &template.resource(queue)["Properties"];
                    // AWS allows no less, and a caller waits for the retry.
                    assert_eq!(queue["VisibilityTimeout"], function.timeout_seconds());
                    let window = &properties["MaximumBatchingWindowInSeconds"];
                    assert!(window.is_null(), "a caller waits for busy");
                    referred(&queue["RedrivePolicy"]["deadLetterTargetArn"])
                }
                Some("DynamoDB") => {
                    referred(&properties["DestinationConfig"]["OnFailure"]["Destination"])
                }
                other => bail!("{name}: where do failures of {other:?} go?"),
            };
            assert!(kept.is_some_and(is_queue), "{name}'s {source}");
        }
        // The Scheduler invokes asynchronously. Lambda puts its failed invocations there.
        let is_scheduled = template.may_be_scheduled(function.id);
        let kept = referred(&function.properties["DeadLetterQueue"]["TargetArn"]);
        assert_eq!(is_scheduled, kept.is_some_and(is_queue), "{name}");
    }
    for (id, queue) in template.resources("AWS::SQS::Queue") {
        assert_eq!(queue["SqsManagedSseEnabled"], true, "{id}");
        if queue["RedrivePolicy"].is_null() {
            let days = 24 * 60 * 60;
            assert_eq!(queue["MessageRetentionPeriod"], 14 * days, "{id}");
        }
    }
    Ok(())
}

#[test]
fn a_change_of_a_call_is_handled_again_for_ten_minutes_and_then_kept() -> Result<()> {
    let template = template()?;
    let functions = template.functions();
    let broadcast = &functions["broadcast"];
    let source = &broadcast.properties["Events"]["CallChanged"]["Properties"];
    assert_eq!(source["BisectBatchOnFunctionError"], true);
    assert_eq!(source["MaximumRetryAttempts"], 30);
    assert_eq!(source["MaximumRecordAgeInSeconds"], 600);
    let kept = referred(&source["DestinationConfig"]["OnFailure"]["Destination"]);
    let kept = kept.context("a destination of failures")?;
    assert!(broadcast.may("sqs:").contains(kept));

    let pattern = source["FilterCriteria"]["Filters"][0]["Pattern"].as_str();
    let pattern: Value = serde_json::from_str(pattern.context("a filter")?)?;
    assert_eq!(pattern["dynamodb"]["Keys"]["sk"]["S"], json!(["CALL"]));
    Ok(())
}

#[test]
fn every_route_may_invoke_its_function() -> Result<()> {
    let template = template()?;
    let allowed: BTreeSet<&str> = template
        .resources("AWS::Lambda::Permission")
        .filter_map(|(_, permission)| referred(&permission["FunctionName"]))
        .collect();
    let functions = template.functions();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        let function = template.function_behind(route).context(id.to_owned())?;
        let function = &functions[function];
        assert!(allowed.contains(function.id), "{id}: {}", function.id);
        assert!(function.timeout_seconds() < 30, "API Gateway's timeout");
    }
    Ok(())
}

#[test]
fn app_messages_have_routes_that_answer_and_stream_frames_have_none() -> Result<()> {
    let template = template()?;
    let selection = &template.resource("WebSocketApi")["Properties"]["RouteSelectionExpression"];
    // The prefix prevents a message with the type $connect.
    assert_eq!(selection, "message/${request.body.type}");
    let answers: BTreeSet<&str> = template
        .resources("AWS::ApiGatewayV2::RouteResponse")
        .filter_map(|(_, answer)| referred(&answer["RouteId"]))
        .collect();
    let mut answered = BTreeSet::new();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        // AWS needs both the expression in the route and the response that it selects.
        let selects = route["RouteResponseSelectionExpression"] == "$default";
        assert_eq!(selects, answers.contains(id), "{id}");
        if selects {
            assert_eq!(template.function_behind(route), Some("ws-message"), "{id}");
            answered.extend(route["RouteKey"].as_str());
        }
    }
    let messages = ["ping", "incoming_call", "call_response"];
    let expected = messages.map(|kind| format!("message/{kind}"));
    assert_eq!(answered, expected.iter().map(String::as_str).collect());
    Ok(())
}

const IN_VPC: &[(&str, &str)] = &[
    (
        "VpcSubnetIds",
        "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    ),
    ("VpcSecurityGroupIds", "sg-0123456789abcdef0"),
];
/// The statement with which Lambda connects a function to a VPC. EC2 supports no resource for its actions.
const NETWORK_INTERFACES: &str = "NetworkInterfaces";

#[test]
fn only_functions_that_call_ari_are_in_the_vpc() -> Result<()> {
    let list = |parameter: &str| json!({ "Fn::Split": [",", { "Ref": parameter }] });
    let vpc = json!({
        "SubnetIds": list("VpcSubnetIds"), "SecurityGroupIds": list("VpcSecurityGroupIds"),
    });
    let interfaces = "AssignPrivateIpAddresses CreateNetworkInterface DeleteNetworkInterface \
        DescribeNetworkInterfaces DescribeSubnets UnassignPrivateIpAddresses";
    for (parameters, has_vpc) in [(IN_VPC, true), (ONE_REGION, false)] {
        let template = deployed_with(&[parameters])?;
        for (name, function) in template.functions() {
            let expected = has_vpc && function.environment().contains_key("ARI_URL");
            let config = function.properties["VpcConfig"].clone();
            let expected_config = if expected { vpc.clone() } else { Value::Null };
            assert_eq!(config, expected_config, "{name}");
            let actions = function.actions().into_iter();
            let actions = actions.filter_map(|action| action.strip_prefix("ec2:"));
            let expected_actions = if expected { interfaces } else { "" };
            assert!(actions.eq(expected_actions.split_whitespace()), "{name}");
        }
        for (holder, statement) in template.statements() {
            if statement["Sid"] == NETWORK_INTERFACES {
                // The function's own code has this key in its requests.
                let not_by_code = json!({ "Null": { "lambda:SourceFunctionArn": "true" } });
                assert_eq!(statement["Condition"], not_by_code, "{holder}");
            }
        }
    }
    Ok(())
}

#[test]
fn concurrency_is_reserved_only_on_request_and_only_on_the_path_of_a_call() -> Result<()> {
    let reserved = |template: &Template| -> BTreeMap<String, Value> {
        let functions = template.functions().into_iter();
        let reserved = functions.map(|(name, function)| {
            let reserved = &function.properties["ReservedConcurrentExecutions"];
            (name.to_owned(), reserved.clone())
        });
        reserved.filter(|(_, value)| !value.is_null()).collect()
    };
    // Accounts with a quota of 10 or 50 cannot reserve any.
    assert_eq!(reserved(&template()?), BTreeMap::new());
    let on_path = CALL_HANDLERS
        .iter()
        .filter(|name| **name != "ws-message")
        .map(|name| ((*name).to_owned(), json!({ "Ref": "CallPathConcurrency" })));
    let template = deployed_with(&[&[("CallPathConcurrency", "20")]])?;
    assert_eq!(reserved(&template), on_path.collect());
    Ok(())
}

#[test]
fn every_function_and_every_route_has_an_event() -> Result<()> {
    let template = template()?;
    let functions = template.functions();
    let mut behind: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        let key = route["RouteKey"].as_str().context(id.to_owned())?;
        behind.insert(key, template.function_behind(route));
    }
    let events = EventFile::all(repository())?;
    let (mut with_events, mut routes) = (BTreeSet::new(), BTreeSet::new());
    for event in &events {
        let function = event.function(functions.keys().copied());
        with_events.insert(function.context(format!("{}: which function?", event.name))?);
        if let Some(route) = event.route().or_else(|| event.websocket_route()) {
            assert_eq!(behind.get(route), Some(&function), "{}", event.name);
            routes.insert(route);
        }
    }
    assert_eq!(with_events, functions.into_keys().collect());
    assert_eq!(routes, behind.into_keys().collect());
    Ok(())
}

#[test]
fn http_events_have_the_form_of_api_gateway() -> Result<()> {
    let events = EventFile::all(repository())?.into_iter();
    for file in events.filter(|file| file.route().is_some()) {
        let (name, event) = (&file.name, &file.event);
        let headers = event["headers"].as_object().context(name.clone())?;
        let mut names = headers.keys();
        assert!(names.all(|name| name.to_lowercase() == *name), "{name}");
        let path = &event["requestContext"]["http"]["path"];
        assert_eq!(
            (&event["rawPath"], &event["version"]),
            (path, &json!("2.0"))
        );
        if let Some(body) = event["body"].as_str() {
            let kind = headers["content-type"].as_str().unwrap_or_default();
            let is_text = kind.starts_with("application/json");
            assert_eq!(event["isBase64Encoded"], !is_text, "{name}");
            let length = match is_text {
                true => body.len(),
                false => BASE64.decode(body)?.len(),
            };
            assert_eq!(headers["content-length"], length.to_string(), "{name}");
        }
    }
    Ok(())
}

#[test]
fn events_contain_only_the_documented_secrets() -> Result<()> {
    let secrets = documented_secrets(repository())?;
    let secret = |name: &str| {
        let value = secrets.get(name);
        value.with_context(|| format!("events/README.md does not document {name}"))
    };
    let key = jsonwebtoken::DecodingKey::from_secret(secret("jwt_secret")?.as_bytes());
    let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let webhook = secret("webhook_secret")?.as_str();
    let basic = format!("Basic {}", BASE64.encode(format!("exotel:{webhook}")));
    for EventFile { name, event } in EventFile::all(repository())? {
        let (headers, query) = (&event["headers"], &event["queryStringParameters"]);
        let headers_with_secrets = [&headers["authorization"], &headers["Authorization"]]
            .into_iter()
            .filter_map(Value::as_str);
        let (passwords, tokens): (Vec<&str>, Vec<&str>) =
            headers_with_secrets.partition(|header| header.starts_with("Basic "));
        assert!(passwords.iter().all(|header| *header == basic), "{name}");
        let tokens = tokens
            .into_iter()
            .map(|header| header.strip_prefix("Bearer ").unwrap_or_default());
        for token in tokens.chain(query["token"].as_str()) {
            let token = jsonwebtoken::decode::<Value>(token, &key, &rules).context(name.clone())?;
            assert_eq!(token.claims["extension"], "1001", "{name}");
        }
        if let Some(in_query) = query["secret"].as_str() {
            assert_eq!(in_query, webhook, "{name}");
        }
        if let Some(header) = headers.get("x-ringback-secret") {
            assert_eq!(header, secret("hook_secret")?.as_str(), "{name}");
        }
    }
    Ok(())
}

/// A deployment in one region, at the API's own address.
fn template() -> Result<Template> {
    Template::load(repository())
}

const ONE_REGION: &[(&str, &str)] = &[];
/// The first of two regions: its table has a replica in the other region.
const PRIMARY: &[(&str, &str)] = &[("OtherRegion", "ap-southeast-1")];
/// The second region: the replica exists already.
const FALLBACK: &[(&str, &str)] = &[
    ("OtherRegion", "ap-south-1"),
    ("ExistingTableName", "ringback-CallsTable-1ABC"),
    ("ExistingTableStreamLabel", "2026-11-21T08:00:00.000"),
];
const DOMAINS: &[(&str, &str)] = &[
    ("HttpDomainName", "calls.example.com"),
    ("WebSocketDomainName", "live.example.com"),
    (
        "CertificateArn",
        "arn:aws:acm:ap-south-1:000000000000:certificate/1",
    ),
    ("HostedZoneId", "Z0123456789ABCDEFGHIJ"),
];

fn deployed_with(parameters: &[&[(&str, &str)]]) -> Result<Template> {
    Template::deployed_with(repository(), &parameters.concat())
}

/// The deployments that differ in their functions or permissions.
fn deployments() -> Result<Vec<Template>> {
    [ONE_REGION, PRIMARY, FALLBACK, IN_VPC]
        .into_iter()
        .map(|parameters| deployed_with(&[parameters]))
        .collect()
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
