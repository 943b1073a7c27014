//! DynamoDB's expressions, as far as the functions write them: conditions, updates, conditions on keys.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.html>

use std::cmp::Ordering;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::units::Item;

/// The names and values that stand in an expression for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placeholders<'a> {
    /// The whole request.
    pub(super) request: &'a Value,
}

impl Placeholders<'_> {
    fn name(self, word: &str) -> Result<String> {
        if !word.starts_with('#') {
            return Ok(word.to_owned());
        }
        let name = &self.request["ExpressionAttributeNames"][word];
        let name = name.as_str().with_context(|| format!("no name {word}"))?;
        Ok(name.to_owned())
    }

    fn value(self, word: &str) -> Result<Value> {
        let value = &self.request["ExpressionAttributeValues"][word];
        ensure!(value.is_object(), "no value {word}");
        Ok(value.clone())
    }
}

/// Whether a condition holds for an item, or for none.
pub(super) fn holds(
    condition: &str,
    placeholders: Placeholders<'_>,
    item: Option<&Item>,
) -> Result<bool> {
    let nothing = Item::new();
    let mut reader = Reader::of(condition, placeholders, item.unwrap_or(&nothing));
    let holds = reader.either()?;
    reader.end()?;
    Ok(holds)
}

/// The item that an update makes of this one.
pub(super) fn updated(update: &str, placeholders: Placeholders<'_>, item: &Item) -> Result<Item> {
    let mut reader = Reader::of(update, placeholders, item);
    let mut next = item.clone();
    while let Some(clause) = reader.word() {
        match clause.as_str() {
            "SET" => loop {
                let name = reader.top_level()?;
                reader.expect("=")?;
                let value = reader.sum()?;
                next.insert(name, value);
                if !reader.takes(",") {
                    break;
                }
            },
            "REMOVE" => loop {
                let name = reader.top_level()?;
                next.remove(&name);
                if !reader.takes(",") {
                    break;
                }
            },
            other => bail!("no clause {other}"),
        }
    }
    Ok(next)
}

struct Reader<'a> {
    words: Vec<String>,
    at: usize,
    placeholders: Placeholders<'a>,
    item: &'a Item,
}

impl<'a> Reader<'a> {
    fn of(text: &str, placeholders: Placeholders<'a>, item: &'a Item) -> Self {
        Self {
            words: words(text),
            at: 0,
            placeholders,
            item,
        }
    }

    fn word(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += usize::from(word.is_some());
        word
    }

    fn takes(&mut self, expected: &str) -> bool {
        let is_next = self.words.get(self.at).is_some_and(|word| word == expected);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        let found = self.words.get(self.at).cloned();
        ensure!(self.takes(expected), "{expected} expected, found {found:?}");
        Ok(())
    }

    fn end(&self) -> Result<()> {
        ensure!(
            self.at == self.words.len(),
            "not read: {:?}",
            &self.words[self.at..]
        );
        Ok(())
    }

    /// Both sides of each operator are read, whatever the first of them says.
    fn either(&mut self) -> Result<bool> {
        let mut holds = self.both()?;
        while self.takes("OR") {
            holds |= self.both()?;
        }
        Ok(holds)
    }

    fn both(&mut self) -> Result<bool> {
        let mut holds = self.term()?;
        while self.takes("AND") {
            holds &= self.term()?;
        }
        Ok(holds)
    }

    fn term(&mut self) -> Result<bool> {
        if self.takes("NOT") {
            return Ok(!self.term()?);
        }
        if self.takes("(") {
            let holds = self.either()?;
            self.expect(")")?;
            return Ok(holds);
        }
        for (function, wanted) in [("attribute_exists", true), ("attribute_not_exists", false)] {
            if self.takes(function) {
                self.expect("(")?;
                let exists = self.attribute()?.is_some();
                self.expect(")")?;
                return Ok(exists == wanted);
            }
        }
        if self.takes("begins_with") {
            self.expect("(")?;
            let whole = self.operand()?;
            self.expect(",")?;
            let start = self.operand()?;
            self.expect(")")?;
            return Ok(whole.zip(start).is_some_and(|(whole, start)| {
                let text = |value: &Value| value["S"].as_str().map(str::to_owned);
                text(&whole)
                    .zip(text(&start))
                    .is_some_and(|(whole, start)| whole.starts_with(&start))
            }));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<bool> {
        let left = self.operand()?;
        let operator = self.word().context("an operator")?;
        if operator == "IN" {
            return self.is_one_of(left.as_ref());
        }
        let right = self.operand()?;
        let Some((left, right)) = left.zip(right) else {
            return Ok(false);
        };
        let ordering = compared(&left, &right);
        Ok(match operator.as_str() {
            "=" => left == right || ordering == Some(Ordering::Equal),
            "<>" => left != right && ordering != Some(Ordering::Equal),
            "<" => ordering == Some(Ordering::Less),
            "<=" => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
            ">" => ordering == Some(Ordering::Greater),
            ">=" => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
            other => bail!("no operator {other}"),
        })
    }

    fn is_one_of(&mut self, left: Option<&Value>) -> Result<bool> {
        self.expect("(")?;
        let mut is_one = false;
        loop {
            is_one |= self.operand()?.as_ref() == left && left.is_some();
            if !self.takes(",") {
                break;
            }
        }
        self.expect(")")?;
        Ok(is_one)
    }

    fn operand(&mut self) -> Result<Option<Value>> {
        let is_value = self
            .words
            .get(self.at)
            .is_some_and(|word| word.starts_with(':'));
        if !is_value {
            return self.attribute();
        }
        let word = self.word().context("a value")?;
        self.placeholders.value(&word).map(Some)
    }

    fn top_level(&mut self) -> Result<String> {
        let word = self.word().context("an attribute")?;
        self.placeholders.name(&word)
    }

    fn attribute(&mut self) -> Result<Option<Value>> {
        let first = self.top_level()?;
        let mut value = self.item.get(&first).cloned();
        while self.takes(".") {
            let inner = self.top_level()?;
            value = value.and_then(|value| value["M"].get(&inner).cloned());
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<Value> {
        let mut sum = self.summand()?;
        for (operator, sign) in [("+", 1), ("-", -1)] {
            if self.takes(operator) {
                let right = self.summand()?;
                let total = integer(&sum)? + sign * integer(&right)?;
                sum = json!({ "N": total.to_string() });
            }
        }
        Ok(sum)
    }

    fn summand(&mut self) -> Result<Value> {
        if !self.takes("list_append") {
            return self.operand()?.context("the attribute is missing");
        }
        self.expect("(")?;
        let first = self.operand()?.context("no list")?;
        self.expect(",")?;
        let second = self.operand()?.context("no list")?;
        self.expect(")")?;
        let elements = |list: &Value| list["L"].as_array().cloned().context("no list");
        let mut all = elements(&first)?;
        all.extend(elements(&second)?);
        Ok(json!({ "L": all }))
    }
}

fn integer(value: &Value) -> Result<i64> {
    Ok(value["N"].as_str().context("no number")?.parse()?)
}

fn compared(left: &Value, right: &Value) -> Option<Ordering> {
    match (integer(left), integer(right)) {
        (Ok(left), Ok(right)) => Some(left.cmp(&right)),
        _ => Some(left["S"].as_str()?.cmp(right["S"].as_str()?)),
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut in_word = false;
    for character in text.chars() {
        let is_word = character.is_alphanumeric() || "_#:".contains(character);
        let completes = matches!(
            (words.last().map(String::as_str), character),
            (Some("<"), '=' | '>') | (Some(">"), '=')
        );
        match words.last_mut() {
            Some(last) if (is_word && in_word) || completes => last.push(character),
            _ if character.is_whitespace() => {}
            _ => words.push(character.into()),
        }
        in_word = is_word;
    }
    words
}

/// Only these attributes, if the request asks for some.
pub(super) fn projected(request: &Value, item: &Item) -> Item {
    let Some(wanted) = request["ProjectionExpression"].as_str() else {
        return item.clone();
    };
    let wanted = wanted.split(',').map(str::trim);
    let found = wanted.filter_map(|name| Some((name.to_owned(), item.get(name)?.clone())));
    found.collect::<Map<String, Value>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: Value) -> Item {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn a_condition_holds_where_dynamodb_says_so() -> Result<()> {
        let request = json!({
            "ExpressionAttributeNames": { "#status": "status", "#caller": "caller", "#extension": "extension" },
            "ExpressionAttributeValues": { ":ringing": { "S": "ringing" }, ":now": { "N": "10" }, ":a": { "S": "a" } },
        });
        let placeholders = Placeholders { request: &request };
        let call = item(json!({
            "status": { "S": "ringing" }, "until": { "N": "9" }, "id": { "S": "abc" },
            "caller": { "M": { "extension": { "S": "1001" } } },
        }));
        for (condition, expected) in [
            ("attribute_exists(id) AND #status = :ringing", true),
            ("attribute_not_exists(id) OR until <= :now", true),
            ("NOT (until < :now)", false),
            ("attribute_not_exists(#caller.#extension)", false),
            ("begins_with(id, :a)", true),
            ("id IN (:a, :ringing)", false),
            ("missing = :now", false),
            ("until <> :now AND until >= :now", false),
        ] {
            assert_eq!(
                holds(condition, placeholders, Some(&call))?,
                expected,
                "{condition}"
            );
        }
        assert!(holds("attribute_not_exists(pk)", placeholders, None)?);
        assert!(holds("id = :a extra", placeholders, Some(&call)).is_err());
        Ok(())
    }

    #[test]
    fn an_update_sets_adds_appends_and_removes() -> Result<()> {
        let request = json!({
            "ExpressionAttributeNames": { "#version": "version", "#history": "history" },
            "ExpressionAttributeValues": { ":one": { "N": "1" }, ":line": { "L": [{ "S": "b" }] }, ":s": { "S": "new" } },
        });
        let before = item(json!({
            "version": { "N": "2" }, "history": { "L": [{ "S": "a" }] }, "owed": { "N": "1" },
        }));
        let update = "SET status = :s, #version = #version + :one, #history = list_append(#history, :line) REMOVE owed";
        let after = updated(update, Placeholders { request: &request }, &before)?;
        let expected = item(json!({
            "version": { "N": "3" }, "history": { "L": [{ "S": "a" }, { "S": "b" }] }, "status": { "S": "new" },
        }));
        assert_eq!(after, expected);
        Ok(())
    }
}
