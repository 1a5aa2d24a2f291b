//! Tables as docker prints them: upper-case titles, columns apart by spaces, no lines.

use comfy_table::{ContentArrangement, Table, presets};

/// Lays rows out below their titles.
pub(crate) fn render<const N: usize>(
    titles: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    render_rows(&titles.map(str::to_owned), rows.into_iter().map(Vec::from))
}

/// [`render`] for a number of columns that is known only when it runs.
pub(crate) fn render_rows(titles: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(titles);
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A cell without control characters: foreign text must not move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let text =
            render(["ID", "NAME"], [["1".into(), "long name".into()], ["22".into(), "x\x1b[2J".into()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ID   NAME");
        assert_eq!(lines[1], "1    long name");
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}
