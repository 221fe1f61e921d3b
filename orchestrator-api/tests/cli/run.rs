//! Runs the binary, and writes down what it said.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a command went.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// Somebody who types commands for one server, in a directory of his own.
pub(crate) struct Person {
    address: String,
    dir: tempfile::TempDir,
}

impl Person {
    pub(crate) fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn writes(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// A command, ready to start. What stands in single quotes is one word.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command
            .args(words(line))
            .current_dir(self.dir.path())
            .env_clear()
            .env("ORCHESTRATOR_ADDRESS", &self.address)
            .stdin(Stdio::null());
        command
    }

    pub(crate) async fn types(&self, line: &str) -> Ran {
        output(self.command(line)).await
    }
}

/// Runs it to its end, while the server in this process goes on.
pub(crate) async fn output(mut command: Command) -> Ran {
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran.await.unwrap().unwrap();
    Ran {
        code: ran.status.code().unwrap_or(-1),
        stdout: String::from_utf8(ran.stdout).unwrap(),
        stderr: String::from_utf8(ran.stderr).unwrap(),
    }
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// A session that is kept as a file: what was typed, and what was answered.
///
/// `BLESS=1` writes the files anew.
pub(crate) struct Session<'a> {
    person: &'a Person,
    text: String,
    /// Ids, in the order in which they were first seen.
    ids: Vec<String>,
}

impl<'a> Session<'a> {
    pub(crate) fn of(person: &'a Person, about: &str) -> Self {
        Self {
            person,
            text: format!("# {about}\n"),
            ids: Vec::new(),
        }
    }

    pub(crate) async fn types(&mut self, line: &str) -> Ran {
        let ran = self.person.types(line).await;
        self.note(line, &ran.stdout, &ran);
        ran
    }

    /// Of what is said while it goes on, the first line and the last: what is between depends on who is faster.
    pub(crate) async fn watches(&mut self, line: &str) -> Ran {
        let ran = self.person.types(line).await;
        let stdout = match ran.lines().as_slice() {
            [first, rest @ .., last] => {
                // Why it failed is said at once.
                let why = rest.iter().position(|line| *line == "Why:");
                let why = why.map_or(&[][..], |at| &rest[at.saturating_sub(1)..]);
                let said = why.iter().chain([last]).copied().collect::<Vec<_>>();
                format!("{first}\n...\n{}\n", said.join("\n"))
            }
            _ => ran.stdout.clone(),
        };
        self.note(line, &stdout, &ran);
        ran
    }

    fn note(&mut self, line: &str, stdout: &str, ran: &Ran) {
        let mut text = format!("\n$ orchestrator {line}\n{stdout}");
        for line in ran.stderr.lines() {
            let _ = writeln!(text, "{}", format!("! {line}").trim_end());
        }
        if ran.code != 0 {
            let _ = writeln!(text, "exit code {}", ran.code);
        }
        assert!(!text.contains('\x1b'), "codes for a terminal: {text:?}");
        let blank = text.lines().find(|line| line.ends_with(' '));
        assert_eq!(blank, None, "a line ends with blanks");
        let text = self.redacted(&text);
        self.text += &text;
    }

    /// Without what is another each time.
    fn redacted(&mut self, text: &str) -> String {
        let text = text.replace(&self.person.address, "<address>");
        let text = self.without_ids(&text);
        let mut lines = Vec::new();
        let mut is_aged = false;
        for line in text.lines() {
            let redacted = without_times(line);
            is_aged |= redacted != line;
            lines.push(redacted);
        }
        let mut text = lines.join("\n") + "\n";
        // A time that takes more room moves the columns.
        while is_aged && text.contains("   ") {
            text = text.replace("   ", "  ");
        }
        text
    }

    fn without_ids(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        let mut at = 0;
        while at + 36 <= text.len() {
            let found = text.get(at..at + 36).filter(|piece| is_id(piece));
            if let Some(id) = found.map(str::to_owned) {
                if !self.ids.contains(&id) {
                    self.ids.push(id.clone());
                }
                let number = self.ids.iter().position(|known| *known == id).unwrap() + 1;
                let name = format!("00000000-0000-0000-0000-{number:012}");
                text.replace_range(at..at + 36, &name);
                at += 36;
            } else {
                at += 1;
            }
        }
        text
    }

    /// Compares it with what is kept under this name.
    pub(crate) fn is(self, name: &str) {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden");
        let path = dir.join(format!("{name}.txt"));
        if std::env::var_os("BLESS").is_some() {
            return std::fs::write(path, self.text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let (kept, found) = (kept.lines(), self.text.lines());
        let mut both = kept.clone().zip(found.clone()).enumerate();
        if let Some((at, (kept, found))) = both.find(|(_, (kept, found))| kept != found) {
            let line = at + 1;
            panic!(
                "{name}.txt, line {line}: BLESS=1 takes it over\n kept: {kept}\nfound: {found}\n\n{}",
                self.text
            );
        }
        assert_eq!(kept.count(), found.count(), "{name}.txt: {}", self.text);
    }
}

fn is_id(piece: &str) -> bool {
    piece.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
    })
}

fn without_times(line: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in line.split(' ') {
        let ends_ago = word == "ago" && words.last().is_some_and(|word| is_span(word));
        if ends_ago {
            while words.last().is_some_and(|word| is_span(word)) {
                words.pop();
            }
            words.push("<ago>");
        } else if word.len() == 24 && word.ends_with('Z') && word.contains('T') {
            words.push("<time>");
        } else if is_span(word) && words.last() == Some(&"in") {
            words.push("<left>");
        } else if is_span(word) && words.last() == Some(&"<left>") {
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

fn is_span(word: &str) -> bool {
    let digits = word.strip_suffix(['s', 'm', 'h', 'd']).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}
