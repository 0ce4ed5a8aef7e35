//! What commands print: data on standard output, everything else on standard error.

use std::fmt::Display;

use serde::Serialize;

use crate::context::Context;
use crate::error::{CommandError, ErrorKind};

/// The option of every command that reports.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ReportArgs {
    /// Print JSON for programs instead of text for people
    #[arg(long)]
    pub json: bool,
}

impl ReportArgs {
    /// Prints `value`, either as JSON or as the text that `human` makes of it.
    ///
    /// # Errors
    ///
    /// As [`Context::write_out`].
    pub fn print<T: Serialize>(
        self,
        context: &Context,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), CommandError> {
        if self.json { print_json(context, value) } else { context.write_out(human(value).as_bytes()) }
    }
}

/// Prints `line` and a line end on standard output.
///
/// # Errors
///
/// As [`Context::write_out`].
pub fn print_line(context: &Context, line: impl Display) -> Result<(), CommandError> {
    context.write_out(format!("{line}\n").as_bytes())
}

/// Prints `value` as indented JSON and a line end on standard output.
///
/// # Errors
///
/// As [`Context::write_out`].
pub fn print_json<T: Serialize + ?Sized>(context: &Context, value: &T) -> Result<(), CommandError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::new(ErrorKind::Unexpected, "cannot write the report as JSON").with_source(error))?;
    text.push('\n');
    context.write_out(text.as_bytes())
}

/// Says something that the reader should know although the command goes on.
pub fn warn(context: &Context, message: impl Display) {
    let word = if context.colors() { "\x1b[1;33mwarning:\x1b[0m" } else { "warning:" };
    context.write_error(&format!("{word} {message}\n"));
}

/// Lays `rows` out in columns, two spaces apart; the first row may be a heading. Columns in `right` (from 0) are set flush right.
#[must_use]
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if right.contains(&column) {
                line.push_str(&padding);
            }
            line.push_str(cell);
            if !right.contains(&column) {
                line.push_str(&padding);
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns text from an image or a guest so that it cannot control a terminal.
#[must_use]
pub fn printable(bytes: impl AsRef<[u8]>) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes.as_ref()).chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// Returns `bytes` for people, as in `1.5 GiB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut whole, mut rest, mut unit) = (bytes, 0_u64, 0_usize);
    while whole >= 1024 {
        rest = whole & 1023;
        whole >>= 10;
        unit = unit.saturating_add(1);
    }
    let tenth = rest.saturating_mul(10) >> 10;
    let name = units.get(unit).copied().unwrap_or("EiB");
    if tenth == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

#[cfg(test)]
mod tests {
    use super::{human_size, printable, table};

    #[test]
    fn tables_line_up_and_have_no_trailing_spaces() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["NAME", "SIZE", "X"]), row(["web1", "9", ""]), row(["a", "100", "y"])], &[1]);
        assert_eq!(text, "NAME  SIZE  X\nweb1     9\na      100  y\n");
    }

    #[test]
    fn a_guests_text_cannot_control_the_terminal() {
        assert_eq!(printable(b"a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(printable("grüß"), "grüß");
    }

    #[test]
    fn sizes_for_people_have_one_decimal_at_most() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(1023), "1023 B");
        assert_eq!(human_size(3 << 29), "1.5 GiB");
        assert_eq!(human_size(u64::MAX), "15.9 EiB");
    }
}
