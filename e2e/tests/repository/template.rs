//! Promises of `template.yaml` that a deployment would show too late, and of the events that go with it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use regex::Regex;
use ringback::auth::Tokens;
use ringback::platform::config::{ConfigError, Environment};
use ringback::platform::secrets::{AppSecret, Secret};
use ringback_e2e::cloudformation::{Template, as_written, each, referred};
use ringback_e2e::event_files::{EventFile, documented_secrets};
use ringback_local::settings::variable_name;
use serde_json::{Value, json};

#[test]
fn every_function_of_the_workspace_is_deployed_and_no_other() -> Result<()> {
    let template = template()?;
    let deployed: BTreeSet<String> = template
        .functions()
        .into_keys()
        .map(str::to_owned)
        .collect();
    let written: BTreeSet<String> = std::fs::read_dir(repository().join("functions"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    assert_eq!(deployed, written);
    assert_eq!(
        deployed.len(),
        template.resources("AWS::Serverless::Function").count(),
        "one has no Binary"
    );
    Ok(())
}

#[test]
fn no_policy_allows_an_action_or_a_resource_that_it_does_not_name() -> Result<()> {
    // No name ends in a wildcard but those of what is made while the functions run; what holds them is named.
    let named_by_what_holds_them = [
        // A connection, when a client connects.
        "${WebSocketApi}/exotel-stream/POST/@connections/*",
        // A schedule, with each call.
        "schedule/${CallSchedules}/*",
        // An endpoint, when a device is registered.
        "endpoint/${PlatformAndName}/*",
    ];
    for (holder, statement) in deployments()?.iter().flat_map(Template::statements) {
        for action in each(&statement["Action"]).map(as_written) {
            assert!(
                action.contains(':') && !action.contains('*'),
                "{holder} allows {action}"
            );
        }
        for resource in each(&statement["Resource"]).map(as_written) {
            let named = !resource.contains('*')
                || statement["Sid"] == NETWORK_INTERFACES
                || named_by_what_holds_them
                    .iter()
                    .any(|end| resource.ends_with(end));
            assert!(
                named && !resource.is_empty(),
                "{holder} allows its actions on {resource}"
            );
        }
        assert!(
            statement["NotAction"].is_null() && statement["NotResource"].is_null(),
            "{holder} allows all but…"
        );
        assert!(
            statement["Sid"].is_string() || holder == "SchedulerRole",
            "{holder}: a statement without a name"
        );
    }
    Ok(())
}

#[test]
fn no_role_brings_a_policy_from_outside_the_template() -> Result<()> {
    for (role, properties) in template()?.resources("AWS::IAM::Role") {
        for policy in each(&properties["ManagedPolicyArns"]) {
            assert!(referred(policy).is_some(), "{role} has {policy}");
        }
    }
    Ok(())
}

#[test]
fn each_function_may_use_what_it_is_told_about_and_nothing_else() -> Result<()> {
    for (name, function) in deployments()?.iter().flat_map(Template::functions) {
        let told = |kind| function.told_about(kind);
        assert_eq!(
            function.may("secretsmanager:"),
            told("AWS::SecretsManager::Secret"),
            "{name}'s secrets"
        );
        assert_eq!(
            function.may("dynamodb:"),
            told("AWS::DynamoDB::GlobalTable"),
            "{name}'s table"
        );
        assert_eq!(
            function.may("iam:"),
            told("AWS::IAM::Role"),
            "{name}'s scheduler role"
        );
        let queues = function.may("sqs:");
        assert!(
            queues.is_superset(&told("AWS::SQS::Queue")),
            "{name}'s queues: {queues:?}"
        );
    }
    Ok(())
}

/// A role says what one function does, and the policy that some share, what all of those do.
#[test]
fn every_role_is_one_functions_own_and_one_policy_is_shared() -> Result<()> {
    let template = template()?;
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut sharers: BTreeSet<&str> = BTreeSet::new();
    for (name, function) in template.functions() {
        let role = referred(&function.properties["Role"]).context(format!("{name}'s role"))?;
        users.entry(role).or_default().push(name);
        let shared = each(&template.resource(role)["Properties"]["ManagedPolicyArns"]);
        for policy in shared.filter_map(referred) {
            assert_eq!(policy, "CarryOutCallsPolicy", "{name}");
            sharers.insert(name);
        }
    }
    for (role, properties) in template.resources("AWS::IAM::Role") {
        let trusted = &properties["AssumeRolePolicyDocument"]["Statement"];
        assert_eq!(each(trusted).count(), 1, "{role}");
        let service = &trusted[0]["Principal"]["Service"];
        if role == "SchedulerRole" {
            assert_eq!(service, "scheduler.amazonaws.com");
            assert!(
                !users.contains_key(role),
                "a function acts as the Scheduler"
            );
        } else {
            assert_eq!(service, "lambda.amazonaws.com", "{role}");
            assert_eq!(users.get(role).map_or(0, Vec::len), 1, "{role}: {users:?}");
        }
    }
    // All that move calls on, each of which may have to set a timer, push and steer channels.
    let move_calls_on = [
        "asterisk-incoming",
        "call-response",
        "call-timeout",
        "exotel-webhook",
        "ws-message",
    ];
    assert_eq!(sharers, move_calls_on.into());
    Ok(())
}

/// What somebody may do to the table who has got hold of a function.
#[test]
fn each_function_may_do_to_the_table_what_it_does_and_no_more() -> Result<()> {
    let carry_out = "GetItem Query PutItem UpdateItem DeleteItem";
    let expected = BTreeMap::from([
        ("asterisk-incoming", carry_out),
        ("call-response", carry_out),
        ("call-timeout", carry_out),
        ("exotel-webhook", carry_out),
        ("ws-message", carry_out),
        // Takes a token, writes the device and its address's owner, looks for the oldest, lets it go.
        ("devices", "UpdateItem PutItem Query DeleteItem"),
        // Besides the call, it takes a token before it waits for one of the other region.
        ("call-status", "GetItem UpdateItem"),
        ("health", "GetItem"),
        ("ws-connect", "PutItem"),
        ("ws-disconnect", "DeleteItem"),
        ("ws-authorizer", ""),
        ("console", ""),
        // Finds who is connected, forgets who has gone, counts posts, and reads the stream of changes.
        (
            "broadcast",
            "Query DeleteItem UpdateItem DescribeStream GetRecords GetShardIterator ListStreams",
        ),
    ]);
    for (name, function) in deployments()?.iter().flat_map(Template::functions) {
        let allowed: BTreeSet<&str> = function
            .actions()
            .into_iter()
            .filter_map(|action| action.strip_prefix("dynamodb:"))
            .collect();
        let expected = expected.get(name).context(format!("{name} may what?"))?;
        assert_eq!(allowed, expected.split_whitespace().collect(), "{name}");
    }
    Ok(())
}

#[test]
fn each_secret_is_read_by_who_needs_it_alone() -> Result<()> {
    let template = template()?;
    let readers = |secret: &str| -> BTreeSet<&str> {
        let functions = template.functions().into_iter();
        functions
            .filter(|(_, function)| function.may("secretsmanager:").contains(secret))
            .map(|(name, _)| name)
            .collect()
    };
    let steer_channels = [
        "asterisk-incoming",
        "call-response",
        "call-timeout",
        "exotel-webhook",
        "ws-message",
    ];
    // Whom a token or a secret is shown to, and who shows one.
    let apps = ["call-response", "call-status", "devices", "ws-authorizer"];
    assert_eq!(readers("AppSecret"), apps.into());
    assert_eq!(
        readers("WebhookSecret"),
        BTreeSet::from(["exotel-webhook", "ws-authorizer"])
    );
    assert_eq!(readers("HookSecret"), BTreeSet::from(["asterisk-incoming"]));
    assert_eq!(
        readers("ExotelSecret"),
        BTreeSet::from(["call-timeout", "ws-message"])
    );
    // Who makes call ids, and who is shown one.
    let signers = [
        "asterisk-incoming",
        "call-response",
        "call-status",
        "exotel-webhook",
        "ws-message",
    ];
    assert_eq!(readers("SigningSecret"), signers.into());
    assert_eq!(readers("FcmSecret"), steer_channels.into());
    let asterisks = steer_channels.into_iter().chain(["health"]);
    assert_eq!(readers("AsteriskSecret"), asterisks.collect());
    for (name, function) in template.functions() {
        let of_secrets = |action: &&str| action.starts_with("secretsmanager:");
        let actions: Vec<&str> = function.actions().into_iter().filter(of_secrets).collect();
        assert!(
            actions
                .iter()
                .all(|action| *action == "secretsmanager:GetSecretValue"),
            "{name}: {actions:?}"
        );
    }
    Ok(())
}

#[test]
fn what_fails_without_anybody_waiting_for_an_answer_is_kept() -> Result<()> {
    let template = template()?;
    let is_queue = |id: &str| template.resource(id)["Type"] == "AWS::SQS::Queue";
    for (name, function) in template.functions() {
        let sources = function.properties["Events"].as_object();
        for (source, event) in sources.into_iter().flatten() {
            let properties = &event["Properties"];
            let kept = match event["Type"].as_str() {
                Some("SQS") => {
                    let queue = referred(&properties["Queue"]).context(source.clone())?;
                    let redrive = &template.resource(queue)["Properties"]["RedrivePolicy"];
                    referred(&redrive["deadLetterTargetArn"])
                }
                Some("DynamoDB") => {
                    referred(&properties["DestinationConfig"]["OnFailure"]["Destination"])
                }
                other => bail!("{name} hears of {other:?}: what becomes of it when it fails?"),
            };
            assert!(kept.is_some_and(is_queue), "{name}'s {source}");
        }
        // The Scheduler invokes asynchronously: what fails then, Lambda puts there.
        let is_scheduled = template.may_be_scheduled(function.id);
        let kept = referred(&function.properties["DeadLetterQueue"]["TargetArn"]);
        assert_eq!(is_scheduled, kept.is_some_and(is_queue), "{name}");
    }
    for (id, queue) in template.resources("AWS::SQS::Queue") {
        if queue["RedrivePolicy"].is_null() {
            let fourteen_days = 14 * 24 * 60 * 60;
            assert_eq!(queue["MessageRetentionPeriod"], fourteen_days, "{id}");
        }
    }
    Ok(())
}

/// The quotas of requests a second that the template knows, of an account in one region, and what it then posts to clients.
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html>
const QUOTAS: [(&str, f64, &str); 2] = [("10000", 10_000.0, "2000"), ("2500", 2_500.0, "500")];

#[test]
fn no_routes_requests_can_use_up_anothers() -> Result<()> {
    for (parameter, quota, posts) in QUOTAS {
        let template = deployed_with(&[&[("AccountRequestsPerSecond", parameter)]])?;
        let in_all = all_rates(&template)?;
        assert!(
            in_all + posts.parse::<f64>()? <= quota,
            "{in_all} requests and {posts} posts are more than {quota}"
        );
        let functions = template.functions();
        let broadcast = functions.get("broadcast").context("broadcast")?;
        assert_eq!(broadcast.environment()["POSTS_PER_SECOND"], posts);
    }
    let chosen = deployed_with(&[&[("PostsPerSecond", "700")]])?;
    let functions = chosen.functions();
    let broadcast = functions.get("broadcast").context("broadcast")?;
    let posts = broadcast.environment()["POSTS_PER_SECOND"];
    assert_eq!(posts, &json!({ "Ref": "PostsPerSecond" }));
    Ok(())
}

/// What all routes together may take, each of which has a rate of its own.
fn all_rates(template: &Template) -> Result<f64> {
    let mut in_all = 0.0;
    for (id, stage) in template.resources("AWS::ApiGatewayV2::Stage") {
        let settings = stage["RouteSettings"].as_object();
        let settings = settings.context(format!("{id}: its routes' settings"))?;
        let depends_on = each(&template.resource(id)["DependsOn"]).filter_map(Value::as_str);
        let named = stage["Description"]["Fn::Sub"].as_str().unwrap_or_default();
        let named = named
            .split("${")
            .skip(1)
            .filter_map(|rest| rest.split('}').next());
        let there_first: BTreeSet<&str> = depends_on.chain(named).collect();
        let mut routes = BTreeSet::new();
        for (route, properties) in template.resources("AWS::ApiGatewayV2::Route") {
            if properties["ApiId"] != stage["ApiId"] {
                continue;
            }
            assert!(
                there_first.contains(route),
                "{id} may be deployed before {route}"
            );
            let key = properties["RouteKey"].as_str().context(route.to_owned())?;
            routes.insert(key);
            in_all += rate(&settings[key]).context(key.to_owned())?;
        }
        let with_settings: BTreeSet<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(with_settings, routes, "{id}");
        in_all += rate(&stage["DefaultRouteSettings"])?;
    }
    Ok(in_all)
}

#[test]
fn a_flood_has_to_be_larger_than_what_an_app_may_send_to_shut_out_the_pbx() -> Result<()> {
    for (parameter, quota, _) in QUOTAS {
        let template = deployed_with(&[&[("AccountRequestsPerSecond", parameter)]])?;
        let settings =
            |stage: &str| template.resource(stage)["Properties"]["RouteSettings"].clone();
        let http = settings("HttpStage");
        for hook in ["incoming", "bridged", "ended"] {
            let key = format!("POST /asterisk/{hook}");
            assert!(rate(&http[&key])? >= quota / 12.5, "{key} at {quota}");
        }
        let websocket = settings("WebSocketStage");
        let rate_of = |route: &str| rate(&websocket[route]);
        // Streams have their own, and leave most of the quota to calls.
        assert!(rate_of("$default")? <= quota * 0.2);
        assert!(rate_of("message/call_response")? >= quota * 0.02);
    }
    Ok(())
}

#[test]
fn apps_leave_room_for_exotel_and_the_pbx() -> Result<()> {
    let template = template()?;
    let settings = &template.resource("HttpStage")["Properties"]["RouteSettings"];
    let (mut apps, mut hooks) = (Vec::new(), Vec::new());
    for (key, setting) in settings.as_object().context("the HTTP API's routes")? {
        let rate = rate(setting)?;
        match key.split_once(' ').map(|(_, path)| path) {
            Some(path) if path.starts_with("/api/") => apps.push(rate),
            Some("/health" | "/" | "/console/{file}") => {}
            _ => hooks.push(rate),
        }
    }
    assert!(!apps.is_empty() && !hooks.is_empty());
    // A call is reported by each hook once or twice, and answered by each phone a few times.
    let least = hooks.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(apps.iter().all(|rate| *rate <= least), "{apps:?} {hooks:?}");
    Ok(())
}

/// A route's requests a second; its burst is enough for a second of them, and its metrics are its own.
fn rate(setting: &Value) -> Result<f64> {
    let rate = setting["ThrottlingRateLimit"]
        .as_f64()
        .context("its rate")?;
    let burst = setting["ThrottlingBurstLimit"]
        .as_f64()
        .context("its burst")?;
    ensure!(rate >= 1.0 && burst >= rate / 2.0, "{setting}");
    ensure!(setting["DetailedMetricsEnabled"] == true, "{setting}");
    Ok(rate)
}

#[test]
fn what_an_extension_may_do_is_limited_unless_a_deployment_says_how_much() -> Result<()> {
    let template = template()?;
    let limits = [
        ("CallsPerMinute", "ws-message", 10),
        ("CallsAtOnce", "ws-message", 5),
        ("ConcurrentCallsPerExtension", "ws-message", 3),
        ("RegistrationsPerMinute", "devices", 6),
        ("RegistrationsAtOnce", "devices", 10),
        ("MaxDevicesPerExtension", "devices", 5),
    ];
    for (limit, function, default) in limits {
        let (_, parameter) = template
            .parameters()
            .find(|(name, _)| *name == limit)
            .context(limit)?;
        assert_eq!(
            (&parameter["Default"], &parameter["MinValue"]),
            (&json!(default), &json!(1))
        );
        assert!(parameter["MaxValue"].as_u64() <= Some(600), "{limit}");
        let functions = template.functions();
        let told = functions[function].environment();
        assert!(
            told.values().any(|value| referred(value) == Some(limit)),
            "{limit}"
        );
    }
    Ok(())
}

#[test]
fn a_deployment_without_settings_of_its_own_is_safe_from_toll_fraud() -> Result<()> {
    let template = template()?;
    let defaults = [
        ("CallerIdPolicy", "CALLER_ID_POLICY", json!("own")),
        ("AllowedPrefixes", "ALLOWED_PREFIXES", json!("")),
        ("PhoneCallsPerDay", "PHONE_CALLS_PER_DAY", json!(100)),
        (
            "MaxPhoneCallSeconds",
            "MAX_PHONE_CALL_SECONDS",
            json!(3_600),
        ),
    ];
    let functions = template.functions();
    let environment = functions["ws-message"].environment();
    for (name, variable, default) in defaults {
        let mut parameters = template.parameters();
        let parameter = parameters.find(|(parameter, _)| *parameter == name);
        let (_, parameter) = parameter.context(name)?;
        assert_eq!(parameter["Default"], default, "{name}");
        let value = environment.get(variable).context(variable)?;
        assert_eq!(referred(value), Some(name));
    }
    Ok(())
}

#[test]
fn only_who_talks_to_exotel_knows_its_account_and_who_places_calls_where_it_reports() -> Result<()>
{
    let template = template()?;
    let functions = template.functions();
    let with = |variable: &str| -> BTreeSet<&str> {
        let given = functions.iter();
        given
            .filter(|(_, function)| function.environment().contains_key(variable))
            .map(|(name, _)| *name)
            .collect()
    };
    let who_calls = BTreeSet::from(["call-timeout", "ws-message"]);
    assert!(with("EXOTEL_BASE_URL").is_superset(&who_calls));
    assert!(with("EXOTEL_SECRET_ARN").is_superset(&who_calls));
    assert!(with("DEFAULT_COUNTRY").is_superset(&who_calls));
    assert_eq!(with("EXOTEL_WEBHOOK_URL"), BTreeSet::from(["ws-message"]));
    // Who carries out calls sets their timers, and all must set the same.
    assert_eq!(with("EXOTEL_CHECK_SECONDS"), with("RING_TIMEOUT_SECONDS"));
    assert!(with("RING_TIMEOUT_SECONDS").is_superset(&who_calls));
    Ok(())
}

#[test]
fn exotel_reports_to_the_webhooks_route_wherever_the_api_is() -> Result<()> {
    let domain = ("HttpDomainName", "calls.example.com");
    let proxy = ("PublicHttpUrl", "https://proxy.example.com");
    let own = "https://${HttpApi}.execute-api.${AWS::Region}.";
    // Reports may come wherever the domain leads. What people enter in Exotel is one region's, for Exotel itself tries the
    // other's.
    let deployments: [(&[_], &str, &str); 3] = [
        (&[], own, own),
        (&[domain], "https://${HttpDomainName}", own),
        (&[domain, proxy], "${PublicHttpUrl}", "${PublicHttpUrl}"),
    ];
    for (parameters, reported_to, entered) in deployments {
        let template = Template::deployed_with(repository(), parameters)?;
        let (_, path) = template
            .resources("AWS::ApiGatewayV2::Route")
            .filter_map(|(_, route)| route["RouteKey"].as_str()?.split_once(' '))
            .find(|(method, path)| *method == "POST" && path.starts_with("/exotel/"))
            .context("the webhook's route")?;
        let functions = template.functions();
        let message = functions.get("ws-message").context("ws-message")?;
        for (url, base) in [
            (message.environment()["EXOTEL_WEBHOOK_URL"], reported_to),
            (template.output("ExotelWebhookUrl"), entered),
        ] {
            let url = as_written(url);
            assert!(url.starts_with(base) && url.ends_with(path), "{url}");
        }
    }
    Ok(())
}

#[test]
fn exotel_is_asked_often_enough_and_never_later_than_the_queue_can_wait() -> Result<()> {
    let template = template()?;
    let (_, seconds) = template
        .parameters()
        .find(|(name, _)| *name == "ExotelCheckSeconds")
        .context("ExotelCheckSeconds")?;
    assert_eq!(seconds["Default"], 300);
    assert_eq!(
        (&seconds["MinValue"], &seconds["MaxValue"]),
        (&json!(10), &json!(900)),
        "SQS delays by 900 s at most"
    );
    Ok(())
}

/// What the other way round, that a function lacks no variable, `events.rs` shows by running it with these alone.
#[test]
fn every_variable_that_a_function_is_given_is_read_somewhere() -> Result<()> {
    let read = sources(&repository().join("shared"))? + &sources(&repository().join("functions"))?;
    for (name, function) in template()?.functions() {
        for variable in function.environment().into_keys() {
            assert!(
                read.contains(&format!("\"{variable}\"")),
                "nobody reads {name}'s {variable}"
            );
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
fn the_scheduler_may_only_invoke_call_timeout() -> Result<()> {
    let template = template()?;
    let allowed: Vec<&Value> = template
        .statements()
        .into_iter()
        .filter(|(id, _)| *id == "SchedulerRole")
        .map(|(_, one)| one)
        .collect();
    assert_eq!(allowed.len(), 1);
    assert_eq!(allowed[0]["Action"], "lambda:InvokeFunction");
    assert!(
        as_written(&allowed[0]["Resource"]).ends_with(":function:${AWS::StackName}-call-timeout")
    );
    let trust = &template.resource("SchedulerRole")["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        [0];
    assert_eq!(
        trust["Condition"]["StringEquals"]["aws:SourceArn"],
        json!({ "Fn::GetAtt": ["CallSchedules", "Arn"] })
    );
    Ok(())
}

#[test]
fn the_table_is_encrypted_forgets_on_time_and_can_be_brought_back() -> Result<()> {
    let template = template()?;
    let tables: Vec<_> = template.resources("AWS::DynamoDB::GlobalTable").collect();
    let [(id, table)] = tables[..] else {
        anyhow::bail!("{} tables", tables.len())
    };
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(
        table["TimeToLiveSpecification"],
        json!({ "AttributeName": "expires_at", "Enabled": true })
    );
    assert_eq!(table["SSESpecification"]["SSEEnabled"], true);
    for replica in each(&table["Replicas"]) {
        assert_eq!(
            replica["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true,
            "{replica}"
        );
    }
    let resource = template.resource(id);
    assert_eq!(resource["DeletionPolicy"], "RetainExceptOnCreate");
    assert_eq!(resource["UpdateReplacePolicy"], "Retain");
    Ok(())
}

#[test]
fn the_second_region_uses_the_firsts_table_and_nothing_else_differs() -> Result<()> {
    let [one, primary, fallback] = [ONE_REGION, PRIMARY, FALLBACK].map(|it| deployed_with(&[it]));
    let (one, primary, fallback) = (one?, primary?, fallback?);
    assert_eq!(primary.ids(), one.ids());
    let mut without_table = one.ids();
    assert!(without_table.remove("CallsTable"));
    assert_eq!(fallback.ids(), without_table);

    let regions = |template: &Template| -> Vec<String> {
        let table = &template.resource("CallsTable")["Properties"];
        each(&table["Replicas"])
            .map(|replica| as_written(&replica["Region"]))
            .collect()
    };
    assert_eq!(regions(&one), ["${AWS::Region}"]);
    assert_eq!(regions(&primary), ["${AWS::Region}", "${OtherRegion}"]);
    for (name, function) in fallback.functions() {
        if let Some(table) = function.environment().get("TABLE_NAME") {
            assert_eq!(referred(table), Some("ExistingTableName"), "{name}");
        }
    }
    let functions = fallback.functions();
    let stream =
        &functions["broadcast"].properties["Events"]["CallChanged"]["Properties"]["Stream"];
    let arn = as_written(stream);
    assert!(
        arn.ends_with(":table/${ExistingTableName}/stream/${ExistingTableStreamLabel}"),
        "{arn}"
    );
    Ok(())
}

#[test]
fn only_where_there_is_another_region_does_the_stream_set_timers() -> Result<()> {
    let timers = BTreeSet::from(["iam:PassRole", "scheduler:CreateSchedule"]);
    let settings = [
        "TIMEOUT_QUEUE_URL",
        "TIMEOUT_FUNCTION_ARN",
        "SCHEDULE_GROUP",
        "SCHEDULER_ROLE_ARN",
    ];
    for (parameters, sets_timers) in [(ONE_REGION, false), (PRIMARY, true), (FALLBACK, true)] {
        let template = deployed_with(&[parameters])?;
        let functions = template.functions();
        let broadcast = functions.get("broadcast").context("broadcast")?;
        assert_eq!(broadcast.actions().is_superset(&timers), sets_timers);
        assert_eq!(broadcast.may("sqs:").contains("TimeoutQueue"), sets_timers);
        for setting in settings {
            assert_eq!(
                broadcast.environment().contains_key(setting),
                sets_timers,
                "{setting}"
            );
        }
    }
    Ok(())
}

#[test]
fn who_looks_for_calls_knows_of_the_other_region() -> Result<()> {
    let looks_for_calls: BTreeSet<&str> = [
        "asterisk-incoming",
        "broadcast",
        "call-response",
        "call-status",
        "call-timeout",
        "exotel-webhook",
        "ws-message",
    ]
    .into();
    for template in deployments()? {
        let functions = template.functions().into_iter();
        let told: BTreeSet<&str> = functions
            .filter(|(_, function)| {
                let environment = function.environment();
                environment
                    .get("OTHER_REGION")
                    .and_then(|value| referred(value))
                    == Some("OtherRegion")
            })
            .map(|(name, _)| name)
            .collect();
        assert_eq!(told, looks_for_calls);
    }
    Ok(())
}

#[test]
fn a_domain_is_made_only_where_it_is_asked_for_and_its_record_only_in_a_zone_of_ours() -> Result<()>
{
    let domains = ["HttpDomain", "HttpMapping"].map(str::to_owned);
    let domains = domains
        .into_iter()
        .chain(["WebSocketDomain", "WebSocketMapping"].map(str::to_owned));
    let domains: BTreeSet<String> = domains.collect();
    let added = |parameters: &[&[(&str, &str)]]| -> Result<BTreeSet<String>> {
        let (one, template) = (template()?, deployed_with(parameters)?);
        let ids = template.ids();
        assert!(ids.is_superset(&one.ids()));
        Ok(ids
            .difference(&one.ids())
            .map(|id| (*id).to_owned())
            .collect())
    };
    let elsewhere: Vec<_> = DOMAINS
        .iter()
        .copied()
        .filter(|(name, _)| *name != "HostedZoneId")
        .collect();
    assert_eq!(added(&[&elsewhere])?, domains);
    let mut with_records = domains;
    with_records.extend(["HttpRecord", "WebSocketRecord"].map(str::to_owned));
    assert_eq!(added(&[DOMAINS])?, with_records);
    with_records.insert("HealthCheck".to_owned());
    assert_eq!(
        added(&[DOMAINS, PRIMARY, &[("FailoverRole", "PRIMARY")]])?,
        with_records
    );
    let http_only: Vec<_> = DOMAINS
        .iter()
        .copied()
        .filter(|(name, _)| *name != "WebSocketDomainName")
        .collect();
    with_records.retain(|id| !id.starts_with("WebSocket"));
    assert_eq!(
        added(&[&http_only, PRIMARY, &[("FailoverRole", "SECONDARY")]])?,
        with_records
    );
    Ok(())
}

#[test]
fn the_paths_behind_a_domain_are_those_of_the_apis_own_address() -> Result<()> {
    let template = deployed_with(&[DOMAINS])?;
    let path_of = |mapping: &str| template.resource(mapping)["Properties"]["ApiMappingKey"].clone();
    assert_eq!(path_of("HttpMapping"), Value::Null);
    let stage = &template.resource("WebSocketStage")["Properties"]["StageName"];
    assert_eq!(path_of("WebSocketMapping"), *stage);
    assert!(
        as_written(template.output("WebSocketUrl")).starts_with("wss://${WebSocketDomainName}/")
    );
    assert_eq!(
        as_written(template.output("HttpUrl")),
        "https://${HttpDomainName}"
    );
    // Exotel and the PBX try one region and then the other themselves, and do not wait for DNS.
    for own in ["RegionalHttpUrl", "ExotelWebhookUrl"] {
        let url = as_written(template.output(own));
        assert!(url.starts_with("https://${HttpApi}."), "{own}: {url}");
    }
    Ok(())
}

#[test]
fn a_name_leads_to_the_other_region_within_90_seconds() -> Result<()> {
    for role in ["PRIMARY", "SECONDARY"] {
        let template = deployed_with(&[DOMAINS, PRIMARY, &[("FailoverRole", role)]])?;
        let check = &template.resource("HealthCheck")["Properties"]["HealthCheckConfig"];
        // The name itself leads to whichever region is well: asked is this one.
        assert!(
            as_written(&check["FullyQualifiedDomainName"])
                .starts_with("${HttpApi}.execute-api.${AWS::Region}.")
        );
        assert_eq!(
            (&check["Type"], &check["ResourcePath"], &check["EnableSNI"]),
            (&json!("HTTPS"), &json!("/health"), &json!(true))
        );
        let seconds = |name: &str| check[name].as_u64().context(name.to_owned());
        let noticed = seconds("RequestInterval")? * (seconds("FailureThreshold")? + 1);
        // Route 53 says of an alias to API Gateway that it may be kept for a minute.
        assert!(noticed + 60 <= 90, "{noticed} s until it is noticed");
        for (id, record) in template.resources("AWS::Route53::RecordSet") {
            assert_eq!(
                referred(&record["HealthCheckId"]),
                Some("HealthCheck"),
                "{id}"
            );
            assert_eq!(record["Failover"], json!({ "Ref": "FailoverRole" }), "{id}");
            assert_eq!(
                record["SetIdentifier"],
                json!({ "Ref": "AWS::Region" }),
                "{id}"
            );
        }
        // Some 16 places ask, each once in an interval, for each of two endpoints. Ten times that much is noise.
        for (quota, _, _) in QUOTAS {
            let given: &[(&str, &str)] =
                &[("FailoverRole", role), ("AccountRequestsPerSecond", quota)];
            let template = deployed_with(&[DOMAINS, PRIMARY, given])?;
            let settings = &template.resource("HttpStage")["Properties"]["RouteSettings"];
            assert!(
                rate(&settings["GET /health"])? >= 2.0 * 16.0 / 10.0 * 11.0,
                "Route 53 would be turned away"
            );
        }
    }
    let alone = deployed_with(&[DOMAINS])?;
    for (id, record) in alone.resources("AWS::Route53::RecordSet") {
        for of_two in ["Failover", "SetIdentifier", "HealthCheckId"] {
            assert!(record[of_two].is_null(), "{id}: {of_two}");
        }
    }
    Ok(())
}

#[test]
fn the_console_is_there_unless_it_is_not_wanted_and_then_nothing_of_it_is() -> Result<()> {
    let (with, without) = (template()?, deployed_with(&[&[("ConsolePage", "no")]])?);
    assert!(!without.ids().iter().any(|id| id.contains("Console")));
    let (with_it, left) = (with.ids(), without.ids());
    assert!(
        left.iter()
            .eq(with_it.iter().filter(|id| !id.starts_with("Console")))
    );
    let routes = &without.resource("HttpStage")["Properties"]["RouteSettings"];
    assert!(routes["GET /"].is_null() && routes["GET /console/{file}"].is_null());
    Ok(())
}

/// A page cannot connect to what its policy does not name.
#[test]
fn the_console_is_told_where_the_websocket_api_is() -> Result<()> {
    for domain in [ONE_REGION, DOMAINS] {
        let template = deployed_with(&[domain])?;
        let functions = template.functions();
        let environment = functions.get("console").context("console")?.environment();
        let told = as_written(environment["WEBSOCKET_URL"]);
        assert_eq!(told, as_written(template.output("WebSocketUrl")));
    }
    let emulated = [(
        "LocalApiGatewayUrl",
        "http://127.0.0.1:4566/_aws/execute-api",
    )];
    let template = deployed_with(&[&emulated])?;
    let console = template.functions().remove("console").context("console")?;
    assert_eq!(as_written(console.environment()["WEBSOCKET_URL"]), "");
    Ok(())
}

/// What a deployment refuses before it makes anything. Route 53 and API Gateway would refuse it in the middle.
#[test]
fn every_parameter_that_another_one_needs_is_asked_for() -> Result<()> {
    let template = template()?;
    let needs = [
        ("ExistingTableName", "ExistingTableStreamLabel"),
        ("HttpDomainName", "CertificateArn"),
        ("WebSocketDomainName", "CertificateArn"),
        ("FailoverRole", "HostedZoneId"),
    ];
    for (given, needed) in needs {
        let asked = template.rules().any(|rule| {
            let applies = rule["RuleCondition"].to_string();
            let mut assertions = each(&rule["Assertions"]);
            applies.contains(&json!({ "Ref": given }).to_string())
                && assertions.any(|one| {
                    one["Assert"]
                        == json!({ "Fn::Not": [{ "Fn::Equals": [{ "Ref": needed }, ""] }] })
                })
        });
        assert!(asked, "{given} without {needed}");
    }
    Ok(())
}

/// Lambda refuses to create a function with active tracing whose role may not send traces yet, so the role itself names the policy.
#[test]
fn every_traced_function_is_created_after_its_permission_to_send_traces() -> Result<()> {
    let template = deployed_with(&[&[("Tracing", "Active")]])?;
    let policy = template.resource("TracingPolicy");
    assert!(
        policy["Properties"]["Roles"].is_null(),
        "a role would exist before its permission"
    );
    for (name, function) in template.functions() {
        let traced = function.properties["Tracing"] != "PassThrough";
        assert_eq!(
            function.actions().contains("xray:PutTraceSegments"),
            traced,
            "{name}"
        );
    }
    for (name, function) in self::template()?.functions() {
        assert!(
            !function.actions().contains("xray:PutTraceSegments"),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn lambda_passes_on_every_line_that_the_log_level_asks_for() -> Result<()> {
    let template = template()?;
    let globals = template.globals();
    let level = &globals["LoggingConfig"]["ApplicationLogLevel"]["Fn::FindInMap"];
    assert_eq!(
        *level,
        json!(["LambdaLogLevel", { "Ref": "LogLevel" }, "Level"])
    );
    let (_, parameter) = template
        .parameters()
        .find(|(name, _)| *name == "LogLevel")
        .context("LogLevel")?;
    for value in each(&parameter["AllowedValues"]).filter_map(Value::as_str) {
        let mapped = template.mapped("LambdaLogLevel", value, "Level");
        assert_eq!(*mapped, json!(value.to_uppercase()));
    }
    for (name, function) in template.functions() {
        let own = &function.properties["LoggingConfig"];
        assert!(
            own["ApplicationLogLevel"].is_null() && own["LogFormat"].is_null(),
            "{name}"
        );
    }
    Ok(())
}

/// A table is kept when its stack is deleted. A new stack in the same region takes it over, with one region or with two.
#[test]
fn a_stack_in_one_region_can_use_a_table_that_is_already_there() -> Result<()> {
    let adopting: Vec<_> = FALLBACK
        .iter()
        .copied()
        .filter(|(name, _)| *name != "OtherRegion")
        .collect();
    let template = deployed_with(&[&adopting])?;
    assert!(refused(&adopting)?.is_empty());
    let one_region = self::template()?;
    let mut ids = one_region.ids();
    assert!(ids.remove("CallsTable"));
    assert_eq!(template.ids(), ids);
    for (name, function) in template.functions() {
        if let Some(table) = function.environment().get("TABLE_NAME") {
            assert_eq!(referred(table), Some("ExistingTableName"), "{name}");
        }
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

/// Starts what checks tokens, with the environment that the template makes of these parameters.
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

/// Why CloudFormation refuses these parameters before it creates anything: their own patterns, and the template's rules.
fn refused(parameters: &[(&str, &str)]) -> Result<Vec<String>> {
    let template = deployed_with(&[parameters])?;
    Template::refusals(repository(), parameters).map(|rules| {
        let patterns = parameters.iter().filter_map(|(name, value)| {
            let (_, parameter) = template
                .parameters()
                .find(|(declared, _)| declared == name)?;
            let pattern = parameter["AllowedPattern"].as_str();
            let fits = pattern.is_none_or(|pattern| {
                Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(value))
            });
            let allowed = parameter["AllowedValues"]
                .as_array()
                .is_none_or(|values| values.contains(&json!(value)));
            (!fits || !allowed).then(|| format!("{name} may not be {value:?}"))
        });
        rules.into_iter().chain(patterns).collect()
    })
}

#[test]
fn every_log_is_kept_for_as_long_as_the_deployment_says() -> Result<()> {
    let template = template()?;
    for (name, function) in template.functions() {
        let group = referred(&function.properties["LoggingConfig"]["LogGroup"])
            .context(format!("{name} logs where?"))?;
        let group = &template.resource(group)["Properties"];
        assert_eq!(
            as_written(&group["LogGroupName"]),
            format!("/aws/lambda/${{AWS::StackName}}-{name}")
        );
    }
    for (id, group) in template.resources("AWS::Logs::LogGroup") {
        assert_eq!(
            group["RetentionInDays"],
            json!({ "Ref": "LogRetentionDays" }),
            "{id}"
        );
    }
    Ok(())
}

#[test]
fn every_function_may_log_into_its_own_group_alone() -> Result<()> {
    for (name, function) in template()?.functions() {
        let group = referred(&function.properties["LoggingConfig"]["LogGroup"]);
        assert_eq!(function.may("logs:"), group.into_iter().collect(), "{name}");
        let needed = BTreeSet::from(["logs:CreateLogStream", "logs:PutLogEvents"]);
        assert!(function.actions().is_superset(&needed), "{name}");
    }
    Ok(())
}

#[test]
fn the_access_log_leaves_out_urls_which_hold_exotels_secret() -> Result<()> {
    let template = template()?;
    for (id, stage) in template.resources("AWS::ApiGatewayV2::Stage") {
        let api = referred(&stage["ApiId"]).context(format!("{id} of which API?"))?;
        if template.resource(api)["Properties"]["ProtocolType"] == "WEBSOCKET" {
            let log = &stage["AccessLogSettings"];
            assert!(log.is_null(), "not every account can deploy {id}'s log");
            continue;
        }
        let format = stage["AccessLogSettings"]["Format"]
            .as_str()
            .context(format!("{id} has no access log"))?;
        let example: Value =
            serde_json::from_str(format).context("the access log's lines are not JSON")?;
        assert!(example.is_object());
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

#[test]
fn a_timeout_that_fails_is_tried_again_and_then_kept() -> Result<()> {
    let template = template()?;
    let functions = template.functions();
    let timeout = functions.get("call-timeout").context("call-timeout")?;
    let source = &timeout.properties["Events"]["TimeIsUp"]["Properties"];
    assert_eq!(
        source["FunctionResponseTypes"],
        json!(["ReportBatchItemFailures"])
    );
    assert!(
        source["MaximumBatchingWindowInSeconds"].is_null(),
        "a caller waits for busy"
    );

    let queue =
        &template.resource(referred(&source["Queue"]).context("the source's queue")?)["Properties"];
    let dead_letters = referred(&queue["RedrivePolicy"]["deadLetterTargetArn"])
        .context("the dead-letter queue")?;
    assert_eq!(template.resource(dead_letters)["Type"], "AWS::SQS::Queue");
    assert_eq!(
        referred(&timeout.properties["DeadLetterQueue"]["TargetArn"]),
        Some(dead_letters)
    );
    let visibility = queue["VisibilityTimeout"]
        .as_u64()
        .context("VisibilityTimeout")?;
    assert_eq!(
        visibility,
        timeout.timeout_seconds(),
        "AWS allows no less, and a caller waits"
    );
    for (id, queue) in template.resources("AWS::SQS::Queue") {
        assert_eq!(queue["SqsManagedSseEnabled"], true, "{id}");
    }
    Ok(())
}

#[test]
fn secrets_that_can_be_made_up_are_long_and_fit_into_a_url() -> Result<()> {
    let template = template()?;
    let made_up = |id: &str| template.resource(id)["Properties"]["GenerateSecretString"].clone();
    for (id, key) in [
        ("AppSecret", "jwt_secret"),
        ("WebhookSecret", "webhook_secret"),
        ("HookSecret", "hook_secret"),
        ("SigningSecret", "signing_secret"),
    ] {
        let secret = made_up(id);
        assert_eq!(secret["GenerateStringKey"], key);
        assert!(secret["PasswordLength"].as_u64() >= Some(40), "{id}");
        let excluded = secret["ExcludeCharacters"]
            .as_str()
            .context(format!("{id}: which characters?"))?;
        let punctuation = (b'!'..=b'~')
            .map(char::from)
            .filter(char::is_ascii_punctuation);
        assert!(
            punctuation.clone().all(|one| excluded.contains(one)),
            "{id}"
        );
        // Nothing that people supply stands beside it: to put that would overwrite what was generated.
        assert_eq!(secret["SecretStringTemplate"], "{}", "{id}");
    }
    Ok(())
}

/// CloudFormation writes a secret's value anew when the template's text of it changes. So generated values stand alone, with
/// a text that stays as it is, and the template has no value at all for what people put.
#[test]
fn no_later_deployment_overwrites_a_secret() -> Result<()> {
    let template = template()?;
    let mut generated = BTreeSet::new();
    let mut supplied = BTreeSet::new();
    for (id, secret) in template.resources("AWS::SecretsManager::Secret") {
        assert!(
            secret["SecretString"].is_null(),
            "{id} has a value in the template"
        );
        match &secret["GenerateSecretString"] {
            Value::Null => supplied.insert(id),
            _ => generated.insert(id),
        };
    }
    assert_eq!(
        supplied,
        BTreeSet::from(["AsteriskSecret", "ExotelSecret", "FcmSecret"])
    );
    let text: BTreeMap<&str, &Value> = generated
        .into_iter()
        .map(|id| {
            (
                id,
                &template.resource(id)["Properties"]["GenerateSecretString"],
            )
        })
        .collect();
    let same = |key: &str| {
        json!({
            "SecretStringTemplate": "{}", "GenerateStringKey": key, "PasswordLength": 48,
            "ExcludeCharacters": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        })
    };
    let expected = BTreeMap::from([
        ("AppSecret", same("jwt_secret")),
        ("HookSecret", same("hook_secret")),
        ("SigningSecret", same("signing_secret")),
        ("WebhookSecret", same("webhook_secret")),
    ]);
    let expected = expected.iter().map(|(id, text)| (*id, text)).collect();
    assert_eq!(
        text, expected,
        "a change here generates the secret anew in every deployment"
    );
    Ok(())
}

#[test]
fn every_parameter_says_what_it_is_for_and_what_it_may_be() -> Result<()> {
    for (name, parameter) in template()?.parameters() {
        assert!(
            parameter["Description"]
                .as_str()
                .is_some_and(|text| text.len() > 20),
            "{name} has no description"
        );
        let limits = ["AllowedPattern", "AllowedValues", "MinValue"];
        assert!(
            limits.iter().any(|limit| !parameter[limit].is_null()),
            "{name} may be anything"
        );
    }
    Ok(())
}

#[test]
fn every_route_may_call_its_function() -> Result<()> {
    let template = template()?;
    let allowed: BTreeSet<&str> = template
        .resources("AWS::Lambda::Permission")
        .filter_map(|(_, one)| referred(&one["FunctionName"]))
        .collect();
    let functions = template.functions();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        let function = template
            .function_behind(route)
            .context(format!("{id} leads nowhere"))?;
        let function = functions.get(function).context(function.to_owned())?;
        assert!(
            allowed.contains(function.id),
            "{id}: API Gateway may not call {}",
            function.id
        );
        assert!(
            function.timeout_seconds() < 30,
            "API Gateway gives up after 30 s"
        );
    }
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
    assert_eq!(
        template.function_at(&properties["AuthorizerUri"]),
        Some("ws-authorizer")
    );
    assert_eq!(
        properties["IdentitySource"],
        json!([]),
        "a header or a query parameter: either will do"
    );
    // AWS refuses both for WebSocket APIs, whose authorizers remember nothing anyway.
    for refused in [
        "AuthorizerResultTtlInSeconds",
        "AuthorizerPayloadFormatVersion",
    ] {
        assert!(properties[refused].is_null(), "{refused}");
    }
    Ok(())
}

#[test]
fn an_apps_messages_have_routes_that_answer_and_a_streams_frames_have_none() -> Result<()> {
    let template = template()?;
    let selection = &template.resource("WebSocketApi")["Properties"]["RouteSelectionExpression"];
    // With the prefix, no message names $connect.
    assert_eq!(selection, "message/${request.body.type}");
    let answers: BTreeSet<&str> = template
        .resources("AWS::ApiGatewayV2::RouteResponse")
        .filter_map(|(_, answer)| referred(&answer["RouteId"]))
        .collect();
    let mut answered = BTreeSet::new();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        // AWS wants both: the expression in the route, and the response that it selects.
        assert_eq!(
            route["RouteResponseSelectionExpression"] == "$default",
            answers.contains(id),
            "{id}"
        );
        if answers.contains(id) {
            assert_eq!(template.function_behind(route), Some("ws-message"), "{id}");
            answered.extend(route["RouteKey"].as_str());
        }
    }
    let of_apps = [
        "message/ping",
        "message/incoming_call",
        "message/call_response",
    ];
    assert_eq!(answered, of_apps.into());
    Ok(())
}

const IN_VPC: &[(&str, &str)] = &[
    (
        "VpcSubnetIds",
        "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    ),
    ("VpcSecurityGroupIds", "sg-0123456789abcdef0"),
];
/// The statement under which Lambda joins a function to a VPC. EC2 takes no resource for it.
const NETWORK_INTERFACES: &str = "NetworkInterfaces";

#[test]
fn in_a_vpc_are_those_who_call_ari_and_they_may_be() -> Result<()> {
    let template = deployed_with(&[IN_VPC])?;
    let list = |parameter: &str| json!({ "Fn::Split": [",", { "Ref": parameter }] });
    for (name, function) in template.functions() {
        let calls_ari = function.environment().contains_key("ARI_URL");
        let expected = if calls_ari {
            json!({ "SubnetIds": list("VpcSubnetIds"), "SecurityGroupIds": list("VpcSecurityGroupIds") })
        } else {
            Value::Null
        };
        assert_eq!(function.properties["VpcConfig"], expected, "{name}");
        let actions = function.actions();
        let of_ec2 = actions
            .iter()
            .filter_map(|action| action.strip_prefix("ec2:"));
        let expected: &[&str] = if calls_ari {
            &[
                "AssignPrivateIpAddresses",
                "CreateNetworkInterface",
                "DeleteNetworkInterface",
                "DescribeNetworkInterfaces",
                "DescribeSubnets",
                "UnassignPrivateIpAddresses",
            ]
        } else {
            &[]
        };
        assert_eq!(of_ec2.collect::<Vec<_>>(), expected, "{name}");
    }
    for (_, statement) in template.statements() {
        if statement["Sid"] == NETWORK_INTERFACES {
            let not_by_code = json!({ "Null": { "lambda:SourceFunctionArn": "true" } });
            assert_eq!(statement["Condition"], not_by_code);
        }
    }
    for (name, function) in self::template()?.functions() {
        assert!(function.properties["VpcConfig"].is_null(), "{name}");
        assert!(
            !function
                .actions()
                .iter()
                .any(|action| action.starts_with("ec2:")),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn executions_are_reserved_for_the_way_of_a_call_alone_and_only_if_asked_for() -> Result<()> {
    let reserved = |template: &Template| -> BTreeMap<String, Value> {
        let functions = template.functions().into_iter();
        functions
            .map(|(name, function)| {
                (
                    name.to_owned(),
                    function.properties["ReservedConcurrentExecutions"].clone(),
                )
            })
            .filter(|(_, reserved)| !reserved.is_null())
            .collect()
    };
    // Accounts with a quota of 10 or 50 can reserve none.
    assert_eq!(reserved(&template()?), BTreeMap::new());
    let reserving = reserved(&deployed_with(&[&[("CallPathConcurrency", "20")]])?);
    let names: Vec<&str> = reserving.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "asterisk-incoming",
            "call-response",
            "call-timeout",
            "exotel-webhook"
        ]
    );
    assert!(
        reserving
            .values()
            .all(|value| value["Ref"] == "CallPathConcurrency")
    );
    Ok(())
}

#[test]
fn a_change_that_cannot_be_told_holds_up_no_other_for_long_and_leaves_a_note() -> Result<()> {
    let template = template()?;
    let functions = template.functions();
    let broadcast = functions.get("broadcast").context("broadcast")?;
    let source = &broadcast.properties["Events"]["CallChanged"]["Properties"];
    assert_eq!(
        source["FunctionResponseTypes"],
        json!(["ReportBatchItemFailures"])
    );
    assert_eq!(source["BisectBatchOnFunctionError"], true);
    assert!(source["MaximumRetryAttempts"].as_u64() <= Some(5));
    assert!(source["MaximumRecordAgeInSeconds"].as_u64() <= Some(60));
    let noted = referred(&source["DestinationConfig"]["OnFailure"]["Destination"])
        .context("where it is noted")?;
    assert!(broadcast.may("sqs:").contains(noted));

    let pattern = source["FilterCriteria"]["Filters"][0]["Pattern"]
        .as_str()
        .context("which changes it hears of")?;
    let pattern: Value = serde_json::from_str(pattern)?;
    assert_eq!(pattern["dynamodb"]["Keys"]["sk"]["S"], json!(["CALL"]));
    Ok(())
}

#[test]
fn every_function_has_an_event_and_every_event_a_function() -> Result<()> {
    let template = template()?;
    let functions = template.functions();
    let mut with_events = BTreeSet::new();
    for file in EventFile::all(repository())? {
        with_events.insert(
            file.function(functions.keys().copied())
                .context(format!("{}: which function?", file.name))?,
        );
    }
    assert_eq!(with_events, functions.into_keys().collect());
    Ok(())
}

#[test]
fn every_route_has_an_event_that_goes_to_its_function() -> Result<()> {
    let template = template()?;
    let functions = template.functions();
    let events = EventFile::all(repository())?;
    let mut routes: BTreeSet<&str> = BTreeSet::new();
    for (id, route) in template.resources("AWS::ApiGatewayV2::Route") {
        let key = route["RouteKey"]
            .as_str()
            .context(format!("{id} has no key"))?;
        let behind = template.function_behind(route);
        let of_route = |event: &&EventFile| route_of(event) == Some(key);
        for event in events.iter().filter(of_route) {
            assert_eq!(
                event.function(functions.keys().copied()),
                behind,
                "{}",
                event.name
            );
        }
        routes.insert(key);
    }
    let with_events: BTreeSet<&str> = events.iter().filter_map(route_of).collect();
    assert_eq!(with_events, routes);
    Ok(())
}

fn route_of(event: &EventFile) -> Option<&str> {
    event.route().or_else(|| event.websocket_route())
}

#[test]
fn events_are_as_api_gateway_would_send_them() -> Result<()> {
    for file in EventFile::all(repository())?
        .iter()
        .filter(|file| file.route().is_some())
    {
        let event = &file.event;
        let headers = event["headers"]
            .as_object()
            .context(format!("{}: headers", file.name))?;
        assert!(
            headers.keys().all(|name| name.to_lowercase() == *name),
            "{}",
            file.name
        );
        let path = &event["requestContext"]["http"]["path"];
        assert_eq!(
            (&event["rawPath"], &event["version"]),
            (path, &json!("2.0")),
            "{}",
            file.name
        );
        if let Some(body) = event["body"].as_str() {
            let text = headers["content-type"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("application/json"));
            assert_eq!(event["isBase64Encoded"], !text, "{}", file.name);
            let length = if text {
                body.len()
            } else {
                BASE64.decode(body)?.len()
            };
            assert_eq!(
                headers["content-length"],
                length.to_string(),
                "{}",
                file.name
            );
        }
    }
    Ok(())
}

#[test]
fn events_carry_the_documented_secrets_and_no_others() -> Result<()> {
    let secrets = documented_secrets(repository())?;
    let secret = |name: &str| {
        secrets
            .get(name)
            .with_context(|| format!("{name} is not in events/README.md"))
    };
    let key = jsonwebtoken::DecodingKey::from_secret(secret("jwt_secret")?.as_bytes());
    let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    for EventFile { name, event } in EventFile::all(repository())? {
        let (headers, query) = (&event["headers"], &event["queryStringParameters"]);
        let in_header = [&headers["authorization"], &headers["Authorization"]]
            .into_iter()
            .filter_map(Value::as_str);
        let (passwords, tokens): (Vec<&str>, Vec<&str>) =
            in_header.partition(|header| header.starts_with("Basic "));
        for header in passwords {
            let shown = format!("exotel:{}", secret("webhook_secret")?);
            let encoded = BASE64.encode(shown);
            assert_eq!(header, format!("Basic {encoded}"), "{name}");
        }
        let tokens = tokens
            .into_iter()
            .map(|header| header.strip_prefix("Bearer ").unwrap_or_default());
        for token in tokens.chain(query["token"].as_str()) {
            let claims = jsonwebtoken::decode::<Value>(token, &key, &rules)
                .context(name.clone())?
                .claims;
            assert_eq!(claims["extension"], "1001", "{name}");
        }
        if let Some(shown) = query["secret"].as_str() {
            assert_eq!(shown, secret("webhook_secret")?, "{name}");
        }
        if let Some(header) = event["headers"].get("x-ringback-secret") {
            assert_eq!(header, secret("hook_secret")?.as_str(), "{name}");
        }
    }
    Ok(())
}

/// In one region, at the API's own address.
fn template() -> Result<Template> {
    Template::load(repository())
}

const ONE_REGION: &[(&str, &str)] = &[];
/// The first of two regions: its table has a replica in the other.
const PRIMARY: &[(&str, &str)] = &[("OtherRegion", "ap-southeast-1")];
/// The second: the replica is there already.
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

/// Each way to deploy the template in which functions, or what they may do, differ.
fn deployments() -> Result<Vec<Template>> {
    [ONE_REGION, PRIMARY, FALLBACK, IN_VPC]
        .into_iter()
        .map(|parameters| deployed_with(&[parameters]))
        .collect()
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
