use super::*;

fn put(pk: &str, sk: &str) -> Value {
    json!({
        "Item": { "pk": { "S": pk }, "sk": { "S": sk } },
        "ConditionExpression": "attribute_not_exists(pk)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    })
}

fn connection(number: usize) -> Result<Item> {
    let item = json!({
        "pk": { "S": format!("EXTENSION#{}", 9 - number) }, "sk": { "S": format!("CONNECTION#r#{number}") },
        "audience": { "S": "everyone#r#3" }, "connected_at": { "N": "1" },
    });
    item.as_object().cloned().context("an item")
}

fn call() -> Result<StoredItems> {
    let mut items = StoredItems::default();
    let call = json!({
        "pk": { "S": "CALL#1" }, "sk": { "S": "CALL" }, "status": { "S": "waiting_for_mobile" },
        "version": { "N": "2" }, "history": { "L": [{ "S": "announced" }] }, "pending": { "N": "7" },
    });
    items.put(call.as_object().cloned().context("an item")?)?;
    Ok(items)
}

/// An update as `store::calls` writes it.
fn accept_if(status: &str) -> Value {
    json!({
        "Key": { "pk": { "S": "CALL#1" }, "sk": { "S": "CALL" } },
        "ConditionExpression": "attribute_exists(pk) AND #status = :v0 AND #rings_until > :v1 AND \
            (attribute_not_exists(#pbx) OR #pbx = :v2)",
        "UpdateExpression": "SET #status = :v3, #history = list_append(#history, :v4), #version = #version + :v5 \
            REMOVE #pending, #missing",
        "ExpressionAttributeNames": {
            "#status": "status", "#rings_until": "rings_until", "#pbx": "pbx", "#history": "history",
            "#version": "version", "#pending": "pending", "#missing": "missing",
        },
        "ExpressionAttributeValues": {
            ":v0": { "S": status }, ":v1": { "N": "1" }, ":v2": { "S": "pbx" }, ":v3": { "S": "mobile_ready" },
            ":v4": { "L": [{ "S": "accept_ready" }] }, ":v5": { "N": "1" },
        },
        "ReturnValues": "ALL_NEW", "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    })
}

#[test]
fn an_update_answers_with_the_call_after_the_change() -> Result<()> {
    let mut items = call()?;
    let answer = items.answer("UpdateItem", &accept_if("waiting_for_mobile"))?;
    let expected = json!({
        "pk": { "S": "CALL#1" }, "sk": { "S": "CALL" }, "status": { "S": "mobile_ready" },
        "version": { "N": "3" }, "history": { "L": [{ "S": "announced" }, { "S": "accept_ready" }] },
    });
    assert_eq!(answer.body["Attributes"], expected);
    assert_eq!((answer.status, answer.units.written), (200, 1.0));
    let changes = items.take_changes();
    assert_eq!(changes.len(), 1);
    let after = changes.first().and_then(|change| change.after.clone());
    assert_eq!(after.map(|item| json!(*item)), Some(expected));
    Ok(())
}

#[test]
fn an_update_of_a_call_in_another_status_is_refused_and_shows_the_call() -> Result<()> {
    let mut items = call()?;
    let answer = items.answer("UpdateItem", &accept_if("in_progress"))?;
    assert_eq!(answer.body["Item"]["status"]["S"], "waiting_for_mobile");
    assert_eq!((answer.status, answer.units.written), (400, 1.0));
    assert!(items.take_changes().is_empty());
    Ok(())
}

#[test]
fn what_the_stand_in_does_not_know_is_an_error() -> Result<()> {
    let mut items = call()?;
    let mut check = accept_if("waiting_for_mobile");
    check["ConditionExpression"] = "#status IN (:v0, :v3)".into();
    let mut update = accept_if("waiting_for_mobile");
    update["UpdateExpression"] = "SET #status = if_not_exists(#status, :v3)".into();
    for (operation, request) in [
        ("UpdateItem", check),
        ("UpdateItem", update),
        ("Scan", json!({})),
        ("Query", json!({ "KeyConditionExpression": "pk > :pk" })),
    ] {
        assert!(items.answer(operation, &request).is_err(), "{request}");
    }
    Ok(())
}

#[test]
fn a_second_put_of_a_new_item_is_refused_and_shows_the_first() -> Result<()> {
    let mut items = StoredItems::default();
    assert_eq!(items.answer("PutItem", &put("CALL#1", "CALL"))?.status, 200);
    let refused = items.answer("PutItem", &put("CALL#1", "CALL"))?;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["Item"]["pk"]["S"], "CALL#1");
    Ok(())
}

#[test]
fn a_transaction_is_all_or_nothing_and_costs_double() -> Result<()> {
    let mut items = StoredItems::default();
    let both = |call: &str| json!({ "TransactItems": [{ "Put": put(call, "CALL") }, { "Put": put("CALLER#1", "MEETING") }] });
    let stored = items.answer("TransactWriteItems", &both("CALL#1"))?;
    assert_eq!((stored.status, stored.units.written), (200, 4.0));
    let cancelled = items.answer("TransactWriteItems", &both("CALL#2"))?;
    let reasons = &cancelled.body["CancellationReasons"];
    assert_eq!(reasons[0]["Code"], "None");
    assert_eq!(reasons[1]["Code"], "ConditionalCheckFailed");
    let key = json!({ "Key": { "pk": { "S": "CALL#2" }, "sk": { "S": "CALL" } } });
    assert_eq!(items.answer("GetItem", &key)?.body, json!({}));
    Ok(())
}

#[test]
fn a_query_reads_the_items_of_one_partition_with_the_prefix() -> Result<()> {
    let mut items = StoredItems::default();
    for (pk, sk) in [
        ("A", "DEVICE#1"),
        ("A", "DEVICE#2"),
        ("A", "X"),
        ("B", "DEVICE#3"),
    ] {
        items.answer("PutItem", &put(pk, sk))?;
    }
    let query = json!({
        "KeyConditionExpression": "pk = :pk AND begins_with(sk, :device)", "ProjectionExpression": "sk",
        "ExpressionAttributeValues": { ":pk": { "S": "A" }, ":device": { "S": "DEVICE#" } },
    });
    let answer = items.answer("Query", &query)?;
    let expected = json!([{ "sk": { "S": "DEVICE#1" } }, { "sk": { "S": "DEVICE#2" } }]);
    assert_eq!(answer.body["Items"], expected);
    assert_eq!(answer.units.read, 0.5);
    Ok(())
}

#[test]
fn an_index_is_read_page_by_page_and_a_full_page_is_followed_by_another() -> Result<()> {
    let mut items = StoredItems::default();
    for number in 0..4 {
        let connected = json!({ "Item": connection(number)? });
        assert_eq!(items.answer("PutItem", &connected)?.units.written, 2.0);
    }
    let mut query = json!({
        "IndexName": "connections", "KeyConditionExpression": "audience = :audience", "Limit": 2,
        "ExpressionAttributeValues": { ":audience": { "S": "everyone#r#3" } },
    });
    let mut counts = Vec::new();
    loop {
        let page = items.answer("Query", &query)?.body;
        counts.push(page["Count"].as_u64().unwrap_or_default());
        if page["LastEvaluatedKey"].is_null() {
            break;
        }
        assert!(
            page["Items"][0]["connected_at"].is_null(),
            "the index has keys only"
        );
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"].clone();
    }
    assert_eq!(counts, [2, 2, 0]);
    let gone = json!({ "Key": keys_alone(&connection(3)?) });
    assert_eq!(items.answer("DeleteItem", &gone)?.units.written, 2.0);
    query["ExclusiveStartKey"] = Value::Null;
    query["Limit"] = 9.into();
    assert_eq!(items.answer("Query", &query)?.body["Count"], 3);
    Ok(())
}
