//! Where statements end in SQL text. The rules are those of `sqlite3_complete` (<https://sqlite.org/c3ref/complete.html>): a `;`
//! outside of quotes and comments ends a statement, but for those between `CREATE TRIGGER` and its `END;`.

/// Finds the ends of statements in text that comes line by line.
#[derive(Debug, Default, Clone)]
pub struct Ends {
    inside: Inside,
    state: State,
}

/// The end of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The offset after its `;`.
    pub at: usize,
    /// Whether there was nothing before it.
    pub is_empty: bool,
}

/// What a line may begin inside of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Inside {
    #[default]
    Text,
    /// A string or a quoted name, up to this character.
    Quotes(u8),
    /// `/* … */`
    Comment,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but blanks and comments since the last statement.
    #[default]
    Start,
    Statement,
    Explain,
    /// `CREATE`, perhaps with `TEMP`.
    Create,
    Trigger,
    /// A `;` in a trigger.
    TriggerSemicolon,
    /// `END` after it.
    TriggerEnd,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Semicolon,
    Explain,
    Create,
    Temp,
    Trigger,
    End,
    Other,
}

impl Ends {
    /// The statements that end in `line`. Words do not go on in the next one.
    pub fn of_line(&mut self, line: &[u8]) -> Vec<End> {
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) {
            let (inside, before) = (self.inside, self.state);
            at += match inside {
                Inside::Quotes(quote) => self.leave(rest, &[quote]),
                Inside::Comment => self.leave(rest, b"*/"),
                Inside::Text => self.text(rest),
            };
            if inside == Inside::Text && self.state == State::Start && rest.first() == Some(&b';') {
                ends.push(End { at, is_empty: before == State::Start });
            }
        }
        ends
    }

    /// Whether a statement has begun and has not ended.
    pub fn is_open(&self) -> bool {
        self.state != State::Start || self.inside != Inside::Text
    }

    /// Goes on to the end of what the text is inside of. Answers how far that is.
    fn leave(&mut self, rest: &[u8], end: &[u8]) -> usize {
        match rest.windows(end.len()).position(|window| window == end) {
            Some(at) => {
                self.inside = Inside::Text;
                at + end.len()
            }
            None => rest.len(),
        }
    }

    /// Takes one token. Answers its length.
    fn text(&mut self, rest: &[u8]) -> usize {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii();
        match rest {
            [b'-', b'-', ..] => return rest.len(),
            [b'/', b'*', ..] => {
                self.inside = Inside::Comment;
                return 2;
            }
            [first, ..] if first.is_ascii_whitespace() => return 1,
            [b'\'' | b'"' | b'`', ..] | [b'[', ..] => {
                let quote = rest.first().copied().unwrap_or_default();
                self.inside = Inside::Quotes(if quote == b'[' { b']' } else { quote });
                self.take(Token::Other);
                return 1;
            }
            [b';', ..] => {
                self.take(Token::Semicolon);
                return 1;
            }
            _ => {}
        }
        let word = rest.iter().take_while(|byte| is_word(byte)).count();
        let Some(text) = rest.get(..word).filter(|text| !text.is_empty()) else {
            self.take(Token::Other);
            return 1;
        };
        self.take(match text.to_ascii_lowercase().as_slice() {
            b"explain" => Token::Explain,
            b"create" => Token::Create,
            b"temp" | b"temporary" => Token::Temp,
            b"trigger" => Token::Trigger,
            b"end" => Token::End,
            _ => Token::Other,
        });
        word
    }

    fn take(&mut self, token: Token) {
        use State::{Create, Explain, Start, Statement, Trigger, TriggerEnd, TriggerSemicolon};
        self.state = match (self.state, token) {
            (Trigger | TriggerSemicolon, Token::Semicolon) => TriggerSemicolon,
            (TriggerSemicolon, Token::End) => TriggerEnd,
            (Trigger | TriggerSemicolon, _) => Trigger,
            (_, Token::Semicolon) => Start,
            (TriggerEnd, _) => Trigger,
            (Start, Token::Explain) => Explain,
            (Start | Explain, Token::Create) => Create,
            // `EXPLAIN QUERY PLAN`
            (Explain, Token::Other) => Explain,
            (Create, Token::Temp) => Create,
            (Create, Token::Trigger) => Trigger,
            _ => Statement,
        };
    }
}

/// The statements of a text, each with its `;`, and what is left without one.
pub fn statements(text: &str) -> Vec<&str> {
    let mut ends = Ends::default();
    let (mut found, mut begin, mut offset) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        for end in ends.of_line(line.as_bytes()) {
            if !end.is_empty {
                found.extend(text.get(begin..offset + end.at));
            }
            begin = offset + end.at;
        }
        offset += line.len();
    }
    if ends.is_open() {
        found.extend(text.get(begin..));
    }
    found.into_iter().map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_sqlite_ends_them() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  -- nothing; at all\n /* ; */ ;;\n", &[]),
            ("select 1", &["select 1"]),
            ("select 1; select 2;", &["select 1;", "select 2;"]),
            ("select ';', \";\", `;`, [;];select 2;", &["select ';', \";\", `;`, [;];", "select 2;"]),
            ("select 'it''s;';", &["select 'it''s;';"]),
            ("select 'a\n;b';\nselect 2", &["select 'a\n;b';", "select 2"]),
            ("select 1 /* ;\n; */ ; x", &["select 1 /* ;\n; */ ;", "x"]),
            ("select 1 -- ;\n; x;", &["select 1 -- ;\n;", "x;"]),
            ("select 1 - 2; select 4 / 2;", &["select 1 - 2;", "select 4 / 2;"]),
            (
                "create trigger a after insert on b begin select 1; select 'end;'; end; select 2;",
                &["create trigger a after insert on b begin select 1; select 'end;'; end;", "select 2;"],
            ),
            (
                "EXPLAIN CREATE TEMP TRIGGER a BEGIN SELECT CASE x WHEN 1 THEN 2 END; END ; x;",
                &["EXPLAIN CREATE TEMP TRIGGER a BEGIN SELECT CASE x WHEN 1 THEN 2 END; END ;", "x;"],
            ),
            ("create table trigger_log(end); x;", &["create table trigger_log(end);", "x;"]),
            ("explain query plan select 1; x;", &["explain query plan select 1;", "x;"]),
        ];
        for (text, expected) in cases {
            assert_eq!(statements(text), *expected, "{text}");
        }
    }

    #[test]
    fn a_statement_is_open_until_its_end() {
        let mut ends = Ends::default();
        for (line, is_open) in
            [("select", true), ("1", true), (";", false), ("-- a", false), ("/*", true), ("*/", false)]
        {
            ends.of_line(line.as_bytes());
            assert_eq!(ends.is_open(), is_open, "{line}");
        }
    }
}
