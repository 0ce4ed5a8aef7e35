use super::Error;
use super::builder::Builder;

/// The lines of a guest's `sshd_config` that hold for every login, those of included files in their places.
pub(super) struct SshdConfig {
    lines: Vec<Line>,
    /// Files that may still be read.
    files_left: usize,
}

/// A keyword in small letters and what follows it.
pub(super) struct Line {
    keyword: String,
    pub(super) arguments: Vec<String>,
}

impl SshdConfig {
    pub(super) fn read(builder: &Builder<'_>) -> Result<Self, Error> {
        let mut config = Self { lines: Vec::new(), files_left: FILES_MAX };
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
        let Some(left) = self.files_left.checked_sub(1) else { return Ok(()) };
        self.files_left = left;
        let bytes = builder.read_small(path, FILE_MAX)?.unwrap_or_default();
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
                    for pattern in &arguments {
                        self.include(builder, pattern, depth)?;
                    }
                }
                _ if is_global && self.lines.len() < LINES_MAX => self.lines.push(Line { keyword, arguments }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the files that a pattern names, in their order; of patterns, those with one `*` in the last name.
    fn include(&mut self, builder: &Builder<'_>, pattern: &str, depth: u32) -> Result<(), Error> {
        // A pattern costs as much as a file: there may be as many, and in large folders.
        let Some(left) = self.files_left.checked_sub(1) else { return Ok(()) };
        self.files_left = left;
        // Spec: sshd_config(5): "Files without absolute paths are assumed to be in /etc/ssh."
        let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") };
        for path in builder.matching(&pattern, left)? {
            self.add(builder, &path, depth.saturating_add(1))?;
        }
        Ok(())
    }
}

impl Line {
    pub(super) fn first(&self) -> &str {
        self.arguments.first().map(String::as_str).unwrap_or_default()
    }
}

/// How deep files are included, as in sshd.
const DEPTH_MAX: u32 = 16;
/// The most files, bytes of each, lines, and words of a line that are looked at.
const FILES_MAX: usize = 200;
const FILE_MAX: u64 = 1 << 18;
const LINES_MAX: usize = 10_000;
const WORDS_MAX: usize = 100;
