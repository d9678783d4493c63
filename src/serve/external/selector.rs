//! The grammar of Kubernetes label selectors: `a=b`, `a==b`, `a!=b`, `a in (b, c)`, `a notin (b)`, `a`,
//! `!a`, `a>1`, `a<1`, joined by commas. Values are taken more freely than Kubernetes does, because ours
//! may be longer.

use crate::limits::SELECTOR_REQUIREMENTS_MAX;

/// What a set of labels must fulfil; without requirements every set does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    /// All of them must hold.
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    /// Name of the label.
    pub key: String,
    /// What is required of it.
    pub operator: Operator,
    /// Values to compare with.
    pub values: Vec<String>,
}

/// What is required of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or no such label.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// A whole number above the value.
    GreaterThan,
    /// A whole number below the value.
    LessThan,
}

impl Selector {
    /// Reads a selector; says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let mut requirements = Vec::new();
        while parser.at < parser.tokens.len() {
            requirements.push(parser.requirement().map_err(|why| {
                format!("unable to parse labelSelector \"{}\": {why}", text.escape_debug())
            })?);
            if requirements.len() > SELECTOR_REQUIREMENTS_MAX {
                return Err(format!("labelSelector has more than {SELECTOR_REQUIREMENTS_MAX} requirements"));
            }
        }
        Ok(Selector { requirements })
    }

    /// Adds the requirements of another selector.
    pub fn and(&mut self, other: Self) {
        self.requirements.extend(other.requirements);
    }

    /// Whether labels fulfil all requirements.
    pub fn matches(&self, labels: &[(&str, &str)]) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.iter().find(|(name, _)| *name == requirement.key).map(|(_, value)| *value);
            requirement.matches(value)
        })
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let is_listed = || value.is_some_and(|value| self.values.iter().any(|listed| listed == value));
        let compares = |holds: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|text| text.parse().ok());
            let value = value.and_then(|value| value.parse().ok());
            value.zip(bound).is_some_and(|(value, bound)| holds(value, bound))
        };
        match self.operator {
            Operator::In => is_listed(),
            Operator::NotIn => !is_listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compares(|value, bound| value > bound),
            Operator::LessThan => compares(|value, bound| value < bound),
        }
    }
}

/// Words and signs of a selector; blanks separate.
fn tokens(text: &str) -> Vec<&str> {
    let is_sign = |c: char| "=!(),<>".contains(c);
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match rest.as_bytes() {
            [b'=' | b'!', b'=', ..] => 2,
            _ if is_sign(first) => 1,
            _ => rest.find(|c: char| is_sign(c) || c.is_whitespace()).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        found.push(token);
        rest = after.trim_start();
    }
    found
}

struct Parser<'t> {
    tokens: Vec<&'t str>,
    at: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'t str> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    fn next_if(&mut self, wanted: &str) -> bool {
        let is_it = self.peek() == Some(wanted);
        self.at += usize::from(is_it);
        is_it
    }

    fn word(&mut self, what: &str) -> Result<&'t str, String> {
        let is_word = |token: &&str| !token.starts_with(['=', '!', '(', ')', ',', '<', '>']);
        let token = self.peek().filter(is_word).ok_or_else(|| match self.peek() {
            Some(found) => format!("found '{found}', expected {what}"),
            None => format!("found the end, expected {what}"),
        })?;
        self.at += 1;
        Ok(token)
    }

    /// One requirement and the comma behind it.
    fn requirement(&mut self) -> Result<Requirement, String> {
        let is_negated = self.next_if("!");
        let key = self.word("a label name")?.to_owned();
        let (operator, values) =
            if is_negated { (Operator::DoesNotExist, Vec::new()) } else { self.operation()? };
        match self.next() {
            None => {}
            Some(",") if self.peek().is_some() => {}
            Some(",") => return Err("found the end, expected a label name".into()),
            Some(found) => return Err(format!("found '{}', expected ','", found.escape_debug())),
        }
        Ok(Requirement { key, operator, values })
    }

    fn operation(&mut self) -> Result<(Operator, Vec<String>), String> {
        let operator = match self.peek() {
            None | Some(",") => return Ok((Operator::Exists, Vec::new())),
            Some("=" | "==") => Operator::In,
            Some("!=") => Operator::NotIn,
            Some(">") => Operator::GreaterThan,
            Some("<") => Operator::LessThan,
            Some(set @ ("in" | "notin")) => {
                self.at += 1;
                let operator = if set == "in" { Operator::In } else { Operator::NotIn };
                return Ok((operator, self.set()?));
            }
            Some(found) => {
                return Err(format!("found '{}', expected an operator", found.escape_debug()));
            }
        };
        self.at += 1;
        // `a=` and `a=,b` compare with the empty value.
        let is_empty = matches!(self.peek(), None | Some(","));
        let value = if is_empty { "" } else { self.word("a value")? };
        let compares = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        if compares && value.parse::<i64>().is_err() {
            return Err("'<' and '>' compare with a whole number".into());
        }
        Ok((operator, vec![value.to_owned()]))
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        if !self.next_if("(") {
            return Err("expected '(' after in or notin".into());
        }
        let mut values = Vec::new();
        loop {
            let is_empty = matches!(self.peek(), Some("," | ")"));
            values.push(if is_empty { String::new() } else { self.word("a value")?.to_owned() });
            match self.next() {
                Some(",") => {}
                Some(")") => return Ok(values),
                _ => return Err("expected ',' or ')' in a list of values".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: &[(&str, &str)] = &[("a", "b"), ("n", "7"), ("variant_id", "meta/llama-8b-H100-1")];

    #[test]
    fn every_form_selects_as_in_kubernetes() {
        for (text, selects) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            (" a = b , n=7", true),
            ("a=c", false),
            ("a!=c", true),
            ("a!=b", false),
            ("missing!=b", true),
            ("missing=b", false),
            ("a in (c, b)", true),
            ("a in (c)", false),
            ("a in(b),n in(7)", true),
            ("a notin (c,d)", true),
            ("a notin (b)", false),
            ("missing notin (b)", true),
            ("a", true),
            ("missing", false),
            ("!missing", true),
            ("!a", false),
            ("! a", false),
            ("a,!missing,n>6", true),
            ("n>7", false),
            ("n<8", true),
            ("a>1", false),
            ("a=", false),
            ("missing=", false),
            ("a in ()", false),
            ("a in (,b)", true),
            ("in in (x)", false),
            ("variant_id=meta/llama-8b-H100-1", true),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(LABELS), selects, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for text in [
            "=b",
            "a=b=c",
            "a b",
            "a in b",
            "a in (b",
            "a in (b c)",
            ",",
            "a,",
            "a,,b",
            "!",
            "!a=b",
            "a>x",
            "(a)",
        ] {
            let error = Selector::parse(text).expect_err(text);
            assert!(error.contains("labelSelector"), "{text}: {error}");
        }
    }
}
