//! Topics, messages and dead letters for people.

use std::time::Duration;

use minnow_control::api_types::{ConsumerInfo, DeadLetterDetail, DeadLetterInfo, TopicInfo};

use crate::{
    client::Message,
    output::{self, BOLD, DIM, RED, YELLOW},
    store::StorePath,
};

/// Characters of a message's data in one line.
const SHOWN_DATA: usize = 200;

pub(super) fn list(topics: &[TopicInfo], now_ms: u64) -> anyhow::Result<()> {
    if topics.is_empty() {
        return output::line(format_args!("{DIM}no topics{DIM:#}"));
    }
    let mut table = output::table(&["topic", "messages", "size", "function", "lag", "oldest", "dead"]);
    for topic in topics {
        let head = [topic.name.to_string(), topic.messages.to_string(), output::size(topic.bytes)];
        let none = || ["–", "–", "–", "–"].map(str::to_owned).to_vec();
        let mut rows: Vec<Vec<String>> = topic.consumers.iter().map(|consumer| columns(consumer, now_ms)).collect();
        if rows.is_empty() {
            rows.push(none());
        }
        for (index, row) in rows.into_iter().enumerate() {
            let head = if index == 0 { head.clone() } else { Default::default() };
            table.add_row(head.into_iter().chain(row));
        }
    }
    output::print_table(table)
}

/// Function, lag, age of the oldest, dead letters.
fn columns(consumer: &ConsumerInfo, now_ms: u64) -> Vec<String> {
    let name = match consumer.left_ms {
        Some(_) => format!("{} (left)", consumer.function),
        None => consumer.function.to_string(),
    };
    let oldest = consumer.oldest_ms.map_or("–".into(), |ms| output::age(ms, now_ms));
    vec![name, consumer.lag.to_string(), oldest, consumer.dead.to_string()]
}

pub(super) fn info(path: &StorePath, topic: &TopicInfo, now_ms: u64) -> anyhow::Result<()> {
    output::line(format_args!("{BOLD}{path}{BOLD:#}"))?;
    let span = match (topic.first, topic.last) {
        (Some(first), Some(last)) => format!(", positions {first} to {last}"),
        _ => String::new(),
    };
    output::line(format_args!("{} messages, {}{span}", topic.messages, output::size(topic.bytes)))?;
    if topic.delayed > 0 {
        let next = topic.next_delayed_ms.map(|ms| format!(", the next until {}", output::timestamp(ms)));
        output::line(format_args!("{} held back{}", topic.delayed, next.unwrap_or_default()))?;
    }
    match &topic.bounds {
        Some(bounds) => {
            let messages = bounds.max_messages.map(|most| format!(", {most} messages")).unwrap_or_default();
            output::line(format_args!(
                "{DIM}kept for {}, up to {}{messages}; when full: {}{DIM:#}",
                humantime::format_duration(Duration::from_millis(bounds.retention_ms)),
                output::size(bounds.max_bytes),
                bounds.when_full.as_str()
            ))?;
        }
        None => output::line(format_args!("{YELLOW}no live version declares it{YELLOW:#}"))?,
    }
    if topic.consumers.is_empty() {
        return output::line(format_args!("{DIM}no function follows it{DIM:#}"));
    }
    output::line("")?;
    let header = ["function", "lag", "oldest", "dead", "under way", "retrying", "next retry", "expired"];
    let mut table = output::table(&header);
    for consumer in &topic.consumers {
        let next = match consumer.next_retry_ms {
            Some(ms) if ms > now_ms => format!("in {}", output::age(now_ms, ms)),
            Some(_) => "now".into(),
            None => "–".into(),
        };
        let mut row = columns(consumer, now_ms);
        row.extend([
            consumer.outstanding.to_string(),
            consumer.retrying.to_string(),
            next,
            consumer.expired.to_string(),
        ]);
        table.add_row(row);
    }
    output::print_table(table)?;
    for consumer in &topic.consumers {
        if let Some(paused_ms) = consumer.paused_ms {
            let paused = output::duration(Duration::from_millis(paused_ms));
            output::line(format_args!(
                "{YELLOW}paused{YELLOW:#} {}: nothing was delivered for {paused}, since there was no room for it (see `minnow logs`)",
                consumer.function
            ))?;
        }
    }
    Ok(())
}

/// A message in one line.
pub(super) fn message(message: &Message) -> String {
    let Message { id, r#type, time, sequence, subject, partitionkey, data, data_base64 } = message;
    let position = match sequence.trim_start_matches('0') {
        "" => "0",
        position => position,
    };
    let data = match (data, data_base64) {
        (Some(data), _) => short(data.get()),
        (None, Some(base64)) => format!("{DIM}{} bytes in base64{DIM:#}", base64.len()),
        (None, None) => String::new(),
    };
    let of = match (partitionkey, subject) {
        (Some(key), Some(subject)) => format!(" {} {}", output::printable(subject), output::printable(key)),
        (Some(text), None) | (None, Some(text)) => format!(" {}", output::printable(text)),
        (None, None) => String::new(),
    };
    format!(
        "{position} {DIM}{} {}{DIM:#} {BOLD}{}{BOLD:#}{of} {data}",
        output::printable(time),
        output::printable(id),
        output::printable(r#type)
    )
}

/// The beginning of a text, without what could move the cursor.
fn short(text: &str) -> String {
    let mut shown = output::printable(&text.chars().take(SHOWN_DATA).collect::<String>());
    if text.chars().nth(SHOWN_DATA).is_some() {
        shown.push('…');
    }
    shown
}

pub(super) fn letters(letters: &[DeadLetterInfo], now_ms: u64) -> anyhow::Result<()> {
    if letters.is_empty() {
        return output::line(format_args!("{DIM}no dead letters{DIM:#}"));
    }
    let mut table = output::table(&["number", "function", "died", "tries", "status", "type", "id", "reason"]);
    for letter in letters {
        let status = letter.status.map_or("–".into(), |status| status.to_string());
        let reason = output::printable(&letter.reason);
        table.add_row([
            letter.number.to_string(),
            letter.function.to_string(),
            output::ago(letter.died_ms, now_ms),
            letter.tries.to_string(),
            status,
            output::printable(&letter.r#type),
            output::printable(&letter.id),
            if letter.again { format!("{reason} (is tried again)") } else { reason },
        ]);
    }
    output::print_table(table)
}

pub(super) fn letter(detail: &DeadLetterDetail) -> anyhow::Result<()> {
    let DeadLetterDetail { letter, answer, event } = detail;
    output::line(format_args!("{BOLD}{}{BOLD:#} of {}", letter.number, letter.function))?;
    output::line(format_args!("reason: {RED}{}{RED:#}", output::printable(&letter.reason)))?;
    output::line(format_args!(
        "tries: {}  {DIM}taken {}, died {}, position {}{DIM:#}",
        letter.tries,
        output::timestamp(letter.taken_ms),
        output::timestamp(letter.died_ms),
        letter.position
    ))?;
    if letter.again {
        output::line(format_args!("{YELLOW}it is tried again{YELLOW:#}"))?;
    }
    if let Some(forward) = &letter.forward {
        output::line(format_args!("{YELLOW}its copy has not reached `{forward}` yet{YELLOW:#}"))?;
    }
    if let Some(status) = letter.status {
        output::line(format_args!("last answer: {status}"))?;
    }
    for line in answer.trim_end().lines() {
        output::line(format_args!("  {}", output::printable(line)))?;
    }
    output::line(format_args!("\n{}", output::printable(event.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let json = r#"{"specversion":"1.0","id":"1","source":"/s","type":"order.created","time":"2026-11-27T10:00:00Z","sequence":"00000000000000000012","partitionkey":"ada","data":{"note":"\u001b[2J"}}"#;
        let read: Message = serde_json::from_str(json).unwrap();
        let plain = anstream::adapter::strip_str(&message(&read)).to_string();
        assert_eq!(plain, r#"12 2026-11-27T10:00:00Z 1 order.created ada {"note":"\u001b[2J"}"#);
        assert_eq!(short(&"x".repeat(201)).chars().count(), 201);
        assert_eq!(short("a\u{1b}b"), "a\\u{1b}b");
    }
}
