//! The words of an instruction: quotes, escapes and variables, as a Dockerfile has them.

use std::iter::Peekable;
use std::str::Chars;

/// Splits a text at white space that is not in quotes, and puts the values of variables in.
pub(super) fn split(text: &str, env: &[String]) -> Result<Vec<String>, String> {
    let mut reader = Reader { rest: text.chars().peekable(), env };
    let mut words = Vec::new();
    loop {
        while reader.rest.next_if(|letter| letter.is_whitespace()).is_some() {}
        if reader.rest.peek().is_none() {
            return Ok(words);
        }
        words.push(reader.word(|letter| letter.is_whitespace())?);
    }
}

/// Reads a text as one word, whatever white space is in it.
pub(super) fn whole(text: &str, env: &[String]) -> Result<String, String> {
    Reader { rest: text.chars().peekable(), env }.word(|_| false)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    env: &'a [String],
}

impl Reader<'_> {
    /// Reads up to a letter that ends it, which is left.
    fn word(&mut self, is_end: fn(char) -> bool) -> Result<String, String> {
        let mut word = String::new();
        while let Some(letter) = self.rest.next_if(|letter| !is_end(*letter)) {
            match letter {
                '\'' => self.quoted(&mut word)?,
                '"' => self.double_quoted(&mut word)?,
                '\\' => word.extend(self.rest.next()),
                '$' => word.push_str(&self.variable()?),
                letter => word.push(letter),
            }
        }
        Ok(word)
    }

    fn quoted(&mut self, word: &mut String) -> Result<(), String> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(letter) => word.push(letter),
                None => return Err("a quote is not closed".into()),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut String) -> Result<(), String> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('$') => word.push_str(&self.variable()?),
                Some('\\') => match self.rest.next_if(|letter| matches!(letter, '"' | '$' | '\\')) {
                    Some(letter) => word.push(letter),
                    None => word.push('\\'),
                },
                Some(letter) => word.push(letter),
                None => return Err("a quote is not closed".into()),
            }
        }
    }

    /// Reads `NAME`, `{NAME}`, `{NAME:-else}` or `{NAME:+then}`.
    fn variable(&mut self) -> Result<String, String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.value(&name) });
        }
        let name = self.name();
        let value = self.value(&name);
        let value = match (self.rest.next(), self.rest.peek()) {
            _ if name.is_empty() => return Err("a variable has no name".into()),
            (Some('}'), _) => return Ok(value),
            (Some(':'), Some('-')) => {
                let other = self.operand()?;
                if value.is_empty() { other } else { value }
            }
            (Some(':'), Some('+')) => {
                let other = self.operand()?;
                if value.is_empty() { value } else { other }
            }
            _ => return Err(format!("the variable {name} is not closed by `}}`")),
        };
        match self.rest.next() {
            Some('}') => Ok(value),
            _ => Err(format!("the variable {name} is not closed by `}}`")),
        }
    }

    fn operand(&mut self) -> Result<String, String> {
        // The sign that was looked at.
        self.rest.next();
        self.word(|letter| letter == '}')
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(letter) = self.rest.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
        {
            name.push(letter);
        }
        name
    }

    fn value(&self, name: &str) -> String {
        let entries = self.env.iter().filter_map(|entry| entry.split_once('='));
        entries.rev().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }
}
