//! `explain`: the book's chapter on errors, one entry at a time.

use cofferdam::error::Code;

use crate::output::{CliError, print};
use crate::table;

/// The chapter. Each entry begins with `## CODE: title`.
const CHAPTER: &str = include_str!("../../../../docs/src/reference/errors.md");

pub(super) fn explain(code: Option<&str>) -> Result<u8, CliError> {
    let Some(text) = code else {
        let rows = Code::ALL.iter().map(|code| [code.to_string(), title(*code).to_owned()]);
        print(table::render(["CODE", "MEANING"], rows))?;
        return Ok(0);
    };
    let code: Code = text.parse().map_err(|error: cofferdam::error::UnknownCode| {
        crate::args::refuse("CODE", &format!("{error}; `cofferdam explain` lists all"))
    })?;
    print(entry(code).unwrap_or_default().trim())?;
    Ok(0)
}

/// The text of one code, its heading included.
fn entry(code: Code) -> Option<&'static str> {
    let heading = format!("\n## {code}: ");
    let start = CHAPTER.find(&heading)? + 1;
    let rest = &CHAPTER[start..];
    let end = rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1);
    Some(&rest[..end])
}

fn title(code: Code) -> &'static str {
    let heading = entry(code).and_then(|entry| entry.lines().next()).unwrap_or_default();
    heading.split_once(": ").map_or("", |(_, title)| title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_an_entry_and_each_entry_a_code() {
        for code in Code::ALL {
            assert!(
                entry(*code).is_some_and(|entry| entry.lines().count() > 2),
                "{code} is not in the chapter"
            );
            assert!(!title(*code).is_empty(), "{code}");
        }
        for heading in CHAPTER.lines().filter_map(|line| line.strip_prefix("## E")) {
            let code = format!("E{}", heading.split(':').next().unwrap_or_default());
            assert!(code.parse::<Code>().is_ok(), "{code} is in the chapter and not in the program");
        }
    }
}
