use super::Error;
use super::builder::Builder;

/// The lines of a guest's `sshd_config` that hold for every login, those of included files in their places.
pub(super) struct SshdConfig {
    lines: Vec<Line>,
}

/// A keyword in small letters and what follows it.
pub(super) struct Line {
    keyword: String,
    pub(super) arguments: Vec<String>,
}

impl SshdConfig {
    pub(super) fn read(builder: &Builder<'_>) -> Result<Self, Error> {
        let mut config = Self { lines: Vec::new() };
        config.add(builder, "/etc/ssh/sshd_config", 0)?;
        Ok(config)
    }

    /// Returns the value that counts. Spec: sshd_config(5): "for each keyword, the first obtained value will be used."
    pub(super) fn first(&self, keyword: &'static str) -> Option<&Line> {
        self.all(keyword).next()
    }

    /// Returns every line of a keyword, which is given in small letters.
    pub(super) fn all(&self, keyword: &'static str) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.keyword == keyword)
    }

    fn add(&mut self, builder: &Builder<'_>, path: &str, depth: u32) -> Result<(), Error> {
        let bytes = builder.read(path)?.unwrap_or_default();
        let mut is_global = true;
        for text in String::from_utf8_lossy(&bytes).lines() {
            let words = text.split(|c: char| c.is_ascii_whitespace() || c == '=').filter(|word| !word.is_empty());
            let mut words = words.map(|word| word.trim_matches('"').to_owned()).take_while(|word| !word.starts_with('#'));
            let Some(keyword) = words.next().map(|word| word.to_ascii_lowercase()) else { continue };
            let arguments: Vec<String> = words.take(WORDS_MAX).collect();
            match keyword.as_str() {
                // A block lasts until the next one, or the end of the file.
                "match" => is_global = arguments.iter().any(|word| word.eq_ignore_ascii_case("all")),
                "include" if is_global && depth < DEPTH_MAX => {
                    for path in
                        arguments.iter().map(|pattern| included(builder, pattern)).collect::<Result<Vec<_>, _>>()?.concat()
                    {
                        self.add(builder, &path, depth.saturating_add(1))?;
                    }
                }
                _ if is_global && self.lines.len() < LINES_MAX => self.lines.push(Line { keyword, arguments }),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Line {
    pub(super) fn first(&self) -> &str {
        self.arguments.first().map(String::as_str).unwrap_or_default()
    }
}

/// Returns the files that a pattern names, in their order; of patterns, those with one `*` in the last name.
fn included(builder: &Builder<'_>, pattern: &str) -> Result<Vec<String>, Error> {
    // Spec: sshd_config(5): "Files without absolute paths are assumed to be in /etc/ssh."
    let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") };
    builder.matching(&pattern, FILES_MAX)
}

/// How deep files are included, as in sshd.
const DEPTH_MAX: u32 = 16;
/// The most files of one pattern, lines, and words of a line that are looked at.
const FILES_MAX: usize = 100;
const LINES_MAX: usize = 10_000;
const WORDS_MAX: usize = 100;
