//! The dashboard and the alarms in the template use existing metrics, and `docs/operations.md` has a section for each
//! alarm.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ringback::push::sns::service;
use ringback::telemetry::metrics;
use ringback_core::call::CallStatus;
use ringback_core::call::PushPlatform;
use ringback_e2e::cloudformation::{Template, as_written, each, referred};
use serde_json::{Value, json};

/// A metric that an alarm or a graph uses, with its namespace, name and dimensions.
#[derive(Debug)]
struct UsedMetric {
    namespace: String,
    name: String,
    dimensions: Vec<(String, String)>,
}

const OWN: &str = "${AWS::StackName}";

impl UsedMetric {
    /// Whether a function or AWS emits this metric.
    fn is_there(&self) -> bool {
        if self.namespace != OWN {
            let of_aws = [
                ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName"),
                ("AWS/Lambda", "Invocations", "FunctionName"),
            ];
            return of_aws.iter().any(|(namespace, name, dimension)| {
                let by = self.dimensions.iter().map(|(name, _)| name.as_str());
                self.namespace == *namespace && self.name == *name && by.eq([*dimension])
            });
        }
        metrics::ALL.iter().any(|metric| {
            let by = self.dimensions.iter().map(|(name, _)| name.as_str());
            metric.name == self.name && by.eq(metric.dimensions.iter().copied())
        })
    }
}

#[test]
fn alarms_use_existing_metrics() -> Result<()> {
    let template = with(&[])?;
    let mut own = BTreeSet::new();
    for (id, alarm) in template.resources("AWS::CloudWatch::Alarm") {
        let looked = alarm_metrics(alarm)?;
        ensure!(!looked.is_empty(), "{id} uses no metric");
        for metric in looked {
            assert!(metric.is_there(), "{id}: {metric:?}");
            own.extend((metric.namespace == OWN).then_some(metric.name));
        }
    }
    let expected = [
        "average_ready_time",
        "bridge_failures",
        "calls_ended",
        "calls_refused",
        "phone_calls",
        "push_failures",
        "successful_calls",
    ];
    assert_eq!(own, expected.map(str::to_owned).into());
    Ok(())
}

#[test]
fn the_no_calls_end_well_alarm_fires_only_if_all_calls_fail() -> Result<()> {
    let template = with(&[])?;
    let alarm = &template.resource("NoCallEndsWellAlarm")["Properties"];
    let expression_of = |id: &str| {
        let mut metrics = each(&alarm["Metrics"]);
        let metric = metrics.find(|metric| metric["Id"] == id);
        metric.map(|metric| as_written(&metric["Expression"]))
    };
    assert_eq!(
        expression_of("lost").as_deref(),
        Some("IF(SUM([none, well]) > 0, 0, reports)")
    );
    let summed = |ids: &[&str]| Some(format!("SUM(FILL([{}], 0))", ids.join(", ")));
    let (mut reported, mut counted) = (Vec::new(), BTreeSet::new());
    for metric in each(&alarm["Metrics"]).filter(|metric| !metric["MetricStat"].is_null()) {
        let id = metric["Id"].as_str().context("the metric has no id")?;
        let looked = of_stat(&metric["MetricStat"]["Metric"])?;
        if looked.name == metrics::CALLS_ENDED.name {
            assert_eq!(looked.dimensions[0].1, id);
            counted.insert(id.to_owned());
        } else if looked.name == metrics::SUCCESSFUL_CALLS.name {
            assert_eq!(id, "talked");
        } else {
            reported.push(id);
        }
    }
    assert_eq!(expression_of("reports"), summed(&reported));
    let well = ["talked", "completed", "declined", "timed_out", "canceled"];
    assert_eq!(expression_of("well"), summed(&well));
    let final_ones = [
        CallStatus::Completed,
        CallStatus::Declined,
        CallStatus::TimedOut,
        CallStatus::Canceled,
        CallStatus::Failed,
    ];
    let well = final_ones
        .into_iter()
        .filter(|status| *status != CallStatus::Failed);
    assert_eq!(
        counted,
        well.map(|status| status.as_str().to_owned()).collect()
    );
    Ok(())
}

#[test]
fn disabled_endpoints_have_an_alarm_if_sns_is_used() -> Result<()> {
    let id = "DisabledEndpointsAlarm";
    ensure!(!with(&[])?.ids().contains(id), "{id} without SNS");
    let application = "arn:aws:sns:ap-south-1:000000000000:app/APNS_VOIP/ringback";
    let template = with(&[("SnsApnsVoipApplicationArn", application)])?;
    let alarm = &template.resource(id)["Properties"];
    let mut services = BTreeSet::new();
    for pair in alarm_metrics(alarm)?.chunks(2) {
        let [disabled, sent] = pair else {
            anyhow::bail!("{pair:?}");
        };
        assert_eq!(disabled.dimensions[1].1, "disabled");
        assert_eq!(sent.dimensions[1].1, "sent");
        assert_eq!(disabled.dimensions[0], sent.dimensions[0]);
        ensure!(disabled.is_there() && sent.is_there(), "{pair:?}");
        services.insert(disabled.dimensions[0].1.clone());
    }
    let of_sns = PushPlatform::ALL.map(|platform| service(platform).to_owned());
    assert_eq!(services, of_sns.into());
    Ok(())
}

#[test]
fn every_function_that_knows_the_sns_applications_may_create_and_enable_endpoints() -> Result<()> {
    let template = with(&[])?;
    let functions = template.functions().into_iter();
    let mut pushing = functions
        // It only asks for their state.
        .filter(|(name, _)| *name != "doctor")
        .filter(|(_, it)| {
            it.environment()
                .contains_key("SNS_APNS_VOIP_APPLICATION_ARN")
        })
        .peekable();
    ensure!(pushing.peek().is_some(), "no function knows SNS");
    for (name, function) in pushing {
        for action in ["sns:CreatePlatformEndpoint", "sns:SetEndpointAttributes"] {
            ensure!(function.actions().contains(action), "{name}: {action}");
        }
    }
    Ok(())
}

#[test]
fn every_dead_letter_queue_has_an_alarm() -> Result<()> {
    let template = with(&[])?;
    let queues = template.resources("AWS::SQS::Queue");
    let dead: BTreeSet<&str> = queues
        .filter(|(_, queue)| queue["RedrivePolicy"].is_null())
        .map(|(id, _)| id)
        .collect();
    let watched: BTreeSet<&str> = template
        .resources("AWS::CloudWatch::Alarm")
        .filter(|(_, alarm)| alarm["Namespace"] == "AWS/SQS" && alarm["Threshold"] == 1)
        .filter_map(|(_, alarm)| referred(&alarm["Dimensions"][0]["Value"]))
        .collect();
    assert_eq!(watched, dead);
    Ok(())
}

#[test]
fn every_alarm_notifies_the_configured_topic_and_has_a_section_in_the_page() -> Result<()> {
    let page = page()?;
    let sections: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let email = ("AlarmEmail", "ops@example.com");
    let topic = ("AlarmTopicArn", "arn:aws:sns:ap-south-1:000000000000:pager");
    for (parameters, expected) in [
        (vec![], vec![]),
        (vec![email], vec!["AlarmTopic"]),
        (vec![topic], vec!["AlarmTopicArn"]),
        (vec![email, topic], vec!["AlarmTopicArn", "AlarmTopic"]),
    ] {
        let template = with(&parameters)?;
        let mut described = BTreeSet::new();
        for (id, alarm) in template.resources("AWS::CloudWatch::Alarm") {
            for actions in ["AlarmActions", "OKActions"] {
                let targets: Vec<&str> = each(&alarm[actions]).filter_map(referred).collect();
                assert_eq!(targets, expected, "{id}'s {actions}");
            }
            assert_eq!(alarm["TreatMissingData"], "notBreaching", "{id}");
            let description = alarm["AlarmDescription"].as_str().context(id.to_owned())?;
            let section = description.split('"').nth(1);
            described.insert(section.with_context(|| format!("{id}: {description}"))?);
        }
        assert_eq!(described, sections);
    }
    Ok(())
}

#[test]
fn the_dashboard_shows_existing_metrics_of_both_regions() -> Result<()> {
    let alone = graphs(&with(&[])?)?;
    let both = graphs(&with(&[("OtherRegion", "ap-southeast-1")])?)?;
    assert_eq!(alone.len(), both.len());
    for (one, two) in alone.iter().zip(&both) {
        let (one, two) = (lines(one)?, lines(two)?);
        assert_eq!(two.len(), one.len() * 2, "{two:?}");
        for (here, there) in one.iter().zip(&two[one.len()..]) {
            assert_eq!(there.region, "${OtherRegion}");
            assert_eq!(here.what, there.what);
        }
    }
    let shown = both.iter().map(lines).collect::<Result<Vec<_>>>()?.concat();
    let mut own = BTreeSet::new();
    let mut named = 0;
    for line in &shown {
        if let Some(metric) = line_metric(&line.what)? {
            assert!(metric.is_there(), "{metric:?}");
            own.extend((metric.namespace == OWN).then_some(metric.name));
            named += 1;
        }
        let expression = line.what[0]["expression"].as_str().unwrap_or_default();
        let searched = |name: &str| expression.contains(&format!("MetricName=\"{name}\""));
        let found = metrics::ALL.iter().filter(|metric| searched(metric.name));
        own.extend(found.map(|metric| metric.name.to_owned()));
    }
    // The dashboard shows every metric that an operator needs.
    let not_shown: BTreeSet<&str> = metrics::ALL
        .iter()
        .map(|metric| metric.name)
        .filter(|name| !own.contains(*name))
        .collect();
    assert_eq!(not_shown, ["cold_starts"].into());
    ensure!(
        named <= 50,
        "{named} metrics: a dashboard with more than 50 is not free"
    );
    Ok(())
}

#[test]
fn the_page_gives_the_number_of_alarm_metrics() -> Result<()> {
    let template = with(&[])?;
    let mut count = 0;
    for (_, alarm) in template.resources("AWS::CloudWatch::Alarm") {
        count += alarm_metrics(alarm)?.len();
    }
    let says = format!("| {count} alarm metrics |");
    ensure!(page()?.contains(&says), "docs/operations.md: {says}");
    Ok(())
}

#[test]
fn the_dashboard_can_be_disabled() -> Result<()> {
    let template = with(&[("Dashboard", "no")])?;
    assert_eq!(template.resources("AWS::CloudWatch::Dashboard").count(), 0);
    Ok(())
}

#[test]
fn tracing_is_off_unless_the_deployment_enables_it() -> Result<()> {
    for (parameters, traced) in [(vec![], false), (vec![("Tracing", "Active")], true)] {
        let template = with(&parameters)?;
        let may_trace = template.resources("AWS::IAM::ManagedPolicy");
        let policies: Vec<&Value> = may_trace
            .filter(|(id, _)| *id == "TracingPolicy")
            .map(|(_, policy)| policy)
            .collect();
        assert_eq!(policies.len(), usize::from(traced));
        for policy in policies {
            let statement = &policy["PolicyDocument"]["Statement"][0];
            let actions = json!(["xray:PutTraceSegments", "xray:PutTelemetryRecords"]);
            assert_eq!(statement["Action"], actions);
        }
        for (name, function) in template.functions() {
            // The console is not part of any call.
            let expected = match name {
                "console" => json!("PassThrough"),
                _ => json!({ "Ref": "Tracing" }),
            };
            assert_eq!(function.environment()["TRACING"], &expected, "{name}");
            assert_eq!(function.properties["Tracing"], expected, "{name}");
        }
    }
    Ok(())
}

#[test]
fn the_call_story_query_covers_every_function() -> Result<()> {
    let template = with(&[])?;
    let queries: Vec<_> = template.resources("AWS::Logs::QueryDefinition").collect();
    assert_eq!(queries.len(), 2);
    for (id, query) in queries {
        let asked: BTreeSet<&str> = each(&query["LogGroupNames"]).filter_map(referred).collect();
        // The console handles no calls.
        let functions = template.functions().into_iter();
        let logs: Option<BTreeSet<&str>> = functions
            .filter(|(name, _)| *name != "console")
            .map(|(_, function)| referred(&function.properties["LoggingConfig"]["LogGroup"]))
            .collect();
        assert_eq!(Some(asked), logs, "{id}");
    }
    let story = template.resource("OneCallQuery")["Properties"]["QueryString"].as_str();
    let page = page()?;
    let mut lines = page.lines().map(str::trim_start);
    for line in story.context("the query has no text")?.lines() {
        ensure!(lines.any(|shown| shown == line), "the page lacks {line}");
    }
    Ok(())
}

#[test]
fn the_no_calls_end_well_alarm_needs_five_minutes() -> Result<()> {
    let template = with(&[])?;
    let alarm = &template.resource("NoCallEndsWellAlarm")["Properties"];
    let periods =
        each(&alarm["Metrics"]).filter_map(|metric| metric["MetricStat"]["Period"].as_u64());
    let periods: BTreeSet<u64> = periods.collect();
    assert_eq!(periods, [60].into());
    assert_eq!(alarm["EvaluationPeriods"], 5);
    Ok(())
}

/// The metrics of an alarm.
fn alarm_metrics(alarm: &Value) -> Result<Vec<UsedMetric>> {
    if !alarm["MetricName"].is_null() {
        return Ok(vec![of_stat(alarm)?]);
    }
    let metrics = each(&alarm["Metrics"]).map(|metric| &metric["MetricStat"]["Metric"]);
    metrics
        .filter(|metric| !metric.is_null())
        .map(of_stat)
        .collect()
}

fn of_stat(metric: &Value) -> Result<UsedMetric> {
    let dimensions = each(&metric["Dimensions"]).map(|dimension| {
        let name = dimension["Name"]
            .as_str()
            .context("the dimension has no name")?;
        Ok((name.to_owned(), as_written(&dimension["Value"])))
    });
    Ok(UsedMetric {
        namespace: as_written(&metric["Namespace"]),
        name: metric["MetricName"]
            .as_str()
            .context("the metric has no name")?
            .to_owned(),
        dimensions: dimensions.collect::<Result<_>>()?,
    })
}

/// The graphs of the dashboard.
fn graphs(template: &Template) -> Result<Vec<Value>> {
    let body = &template.resource("OperationsDashboard")["Properties"]["DashboardBody"];
    let text = resolved(body)?;
    let body: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let widgets = body["widgets"].as_array().context("widgets")?;
    Ok(widgets
        .iter()
        .map(|widget| widget["properties"].clone())
        .collect())
}

/// A text as CloudFormation fills it in, except for values that only AWS knows.
fn resolved(value: &Value) -> Result<String> {
    match (&value["Fn::Join"], &value["Fn::Sub"]) {
        (Value::Array(parts), _) => {
            let separator = parts[0].as_str().context("the separator")?;
            let texts: Result<Vec<String>> = each(&parts[1]).map(resolved).collect();
            Ok(texts?.join(separator))
        }
        (_, Value::Array(parts)) => {
            let mut text = resolved(&parts[0])?;
            for (name, part) in parts[1].as_object().context("unknown reference")? {
                text = text.replace(&format!("${{{name}}}"), &resolved(part)?);
            }
            Ok(text)
        }
        _ => Ok(as_written(value)),
    }
}

/// A line of a graph without its region and account.
#[derive(Clone, Debug)]
struct Line {
    what: Value,
    region: String,
}

/// The lines of a graph. An omitted value is that of the whole graph, or that of the previous line (`...`).
fn lines(graph: &Value) -> Result<Vec<Line>> {
    let of_graph = graph["region"]
        .as_str()
        .context("the graph has no region")?;
    let mut all = Vec::new();
    for line in graph["metrics"]
        .as_array()
        .context("the graph has no metrics")?
    {
        let mut what = line.clone();
        let mut region = of_graph.to_owned();
        let options = what.as_array_mut().and_then(|parts| parts.last_mut());
        if let Some(Value::Object(options)) = options {
            if let Some(other) = options.remove("region") {
                region = other.as_str().context("the line has no region")?.to_owned();
            }
            options.remove("label");
            options.remove("id");
        }
        all.push(Line { what, region });
    }
    Ok(all)
}

/// `[namespace, name, dimension, value, …, {options}]`; `None` for an expression.
fn line_metric(line: &Value) -> Result<Option<UsedMetric>> {
    let parts: Vec<&str> = each(line).filter_map(Value::as_str).collect();
    let [namespace, name, dimensions @ ..] = parts.as_slice() else {
        ensure!(line[0]["expression"].is_string(), "{line}");
        return Ok(None);
    };
    let dimensions = dimensions.chunks(2).map(|pair| {
        let [name, value] = pair else {
            anyhow::bail!("a dimension has no value: {line}")
        };
        Ok(((*name).to_owned(), (*value).to_owned()))
    });
    Ok(Some(UsedMetric {
        namespace: (*namespace).to_owned(),
        name: (*name).to_owned(),
        dimensions: dimensions.collect::<Result<_>>()?,
    }))
}

fn with(parameters: &[(&str, &str)]) -> Result<Template> {
    Template::deployed_with(repository(), parameters)
}

fn page() -> Result<String> {
    Ok(std::fs::read_to_string(
        repository().join("docs/operations.md"),
    )?)
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
