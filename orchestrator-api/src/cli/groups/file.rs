//! Group files: the jobs, what each is after, and where its document is.

use std::path::{Path, PathBuf};

use orchestrator_core::JobId;
use orchestrator_core::group::{GROUP_MEMBERS_MAX, Group, GroupSpec};
use orchestrator_core::spec::{JobSpec, SPEC_BYTES_MAX, SpecError, SpecErrors};
use serde_json::{Map, Value};

use crate::cli::error::Error;
use crate::cli::file::{JobFile, Written, Wrong, placed};
use crate::cli::show::{cut, now, printable};

/// How much of a value is shown that is not allowed, as the core shows it.
const VALUE_MAX: usize = 80;

/// A group that is right, as far as can be seen without a server.
pub(super) struct GroupFile {
    file: Written,
    /// The job files that it names, by their members.
    others: Vec<Option<Written>>,
    /// As it is sent, with all documents in it.
    document: Value,
    group: Group,
}

/// A group file that is looked at, and what is wrong so far: with it, and with the files that it names.
struct Reading {
    file: Written,
    dir: PathBuf,
    wrong: Vec<Wrong>,
    wrong_others: Vec<Error>,
    /// The fields that name no job where a document would, and is wrong.
    nameless: Vec<String>,
}

/// The document of a member, and the file of its own that it is from.
type Given = (Value, Option<Written>);

impl GroupFile {
    /// Reads it and what it names; `-` is the standard input. What is wrong with any of it is told at once.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let (file, wrong) = Written::read(path)?;
        if file.has("driver") && !file.has("members") {
            return Err(file.is_a("a job", "job", path));
        }
        let mut group = file.value().clone();
        let mut reading = Reading {
            file,
            dir: path.parent().map(Path::to_owned).unwrap_or_default(),
            wrong,
            wrong_others: Vec::new(),
            nameless: Vec::new(),
        };
        let mut given = Vec::new();
        // More is no group, and nothing to look at.
        for (at, member) in members(&mut group).take(GROUP_MEMBERS_MAX).enumerate() {
            let member = member.as_object_mut();
            given.push(member.and_then(|member| reading.member(&format!("members[{at}]"), member)));
        }
        let checked = reading.check(&group);
        let mut others = Vec::new();
        for (member, given) in members(&mut group).zip(given) {
            let (document, file) = given.unzip();
            if let Some((document, member)) = document.zip(member.as_object_mut()) {
                member.insert("spec".to_owned(), document);
            }
            others.push(file.flatten());
        }
        // What one job may have, all of a request may have.
        if group.to_string().len() > SPEC_BYTES_MAX {
            let allowed = format!("at most {SPEC_BYTES_MAX} bytes in all documents together");
            reading.refuse("members", Some(&group["members"]), &allowed);
        }
        let file = reading.done()?;
        Ok(Self {
            file,
            others,
            document: group,
            group: checked.expect("what is wrong with it was told"),
        })
    }

    pub(super) fn document(&self) -> &Value {
        &self.document
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// The same error, where it is a refusal of what stands in the files: at their lines.
    pub(super) fn placed(&self, why: Error) -> Error {
        placed(why, |pointer| {
            self.other(pointer).unwrap_or((&self.file, pointer))
        })
    }

    /// The file of the member whose document a pointer points into, and where in that.
    fn other<'p>(&self, pointer: &'p str) -> Option<(&Written, &'p str)> {
        let (at, place) = pointer.strip_prefix("/members/")?.split_once('/')?;
        let file = self.others.get(at.parse::<usize>().ok()?)?.as_ref()?;
        Some((file, place.strip_prefix("spec")?))
    }
}

fn members(group: &mut Value) -> impl Iterator<Item = &mut Value> {
    let members = group.get_mut("members").and_then(Value::as_array_mut);
    members.into_iter().flatten()
}

impl Reading {
    fn refuse(&mut self, field: &str, value: Option<&Value>, allowed: &str) {
        let value = value.map(|value| cut(&printable(&value.to_string()), Some(VALUE_MAX)));
        let error = SpecError {
            field: field.to_owned(),
            value: value.unwrap_or_default(),
            allowed: allowed.to_owned(),
        };
        self.wrong.push(self.file.wrong(field, error.to_string()));
    }

    /// Takes a member's document out of it, and leaves what a group is made of.
    fn member(&mut self, place: &str, member: &mut Map<String, Value>) -> Option<Given> {
        let given = match (member.remove("file"), member.remove("spec")) {
            (None, None) => {
                let allowed = "the path of a job file, or the document itself as its spec";
                self.refuse(&format!("{place}.file"), None, allowed);
                None
            }
            (Some(_), Some(spec)) => {
                self.refuse(
                    &format!("{place}.spec"),
                    Some(&spec),
                    "a file or a spec, not both",
                );
                None
            }
            (None, Some(spec)) => {
                let checked = JobSpec::from_value(&spec);
                let here = format!("{place}.spec");
                self.file
                    .find_in_job(checked, &spec, &here, &mut self.wrong);
                Some((spec, None))
            }
            (Some(named), None) => self.named(&format!("{place}.file"), &named),
        };
        let field = format!("{place}.job");
        let found = given.as_ref().and_then(|(document, _)| id(document));
        let said = member.get("job").cloned();
        match (said, found) {
            (None, Some(found)) => {
                member.insert("job".to_owned(), found.to_string().into());
            }
            (None, None) => self.nameless.push(field),
            (Some(said), Some(found)) => {
                let meant = said.as_str().and_then(|said| said.parse::<JobId>().ok());
                if meant.is_some_and(|meant| meant != found) {
                    let allowed = format!("the job of its document, {found}");
                    self.refuse(&field, Some(&said), &allowed);
                }
            }
            (Some(_), None) => {}
        }
        given
    }

    /// The document in a job file beside this one.
    fn named(&mut self, field: &str, named: &Value) -> Option<Given> {
        // There is one standard input.
        let name = named.as_str().filter(|name| !["", "-"].contains(name));
        let Some(name) = name else {
            self.refuse(field, Some(named), "the path of a job file");
            return None;
        };
        match JobFile::look(&self.dir.join(name)) {
            Ok((file, wrong)) => {
                if !wrong.is_empty() {
                    self.wrong_others.push(file.error(wrong));
                }
                Some((file.value().clone(), Some(file)))
            }
            Err(why @ Error::File { .. }) => {
                self.wrong_others.push(why);
                None
            }
            Err(why) => {
                let what = format!("{field}: {}", printable(&why.to_string()));
                self.wrong.push(self.file.wrong(field, what));
                None
            }
        }
    }

    /// What is wrong with the group itself, its documents aside.
    fn check(&mut self, group: &Value) -> Option<Group> {
        // Of JSON the text, which shows keys that are there twice.
        let text = self.file.json().map(GroupSpec::parse);
        let twice = text.and_then(Result::err);
        let twice = twice.iter().flat_map(SpecErrors::errors);
        let twice = twice.filter(|error| error.allowed == "each field only once");
        self.file.find(twice.cloned(), "", &mut self.wrong);
        let made = GroupSpec::from_value(group).and_then(|spec| Group::new(now(), spec));
        let errors = match made {
            Ok((group, _)) => return Some(group),
            Err(errors) => errors,
        };
        let missing = |error: &SpecError| error.value.is_empty();
        let errors = errors.errors().iter();
        let errors =
            errors.filter(|error| !missing(error) || !self.nameless.contains(&error.field));
        let errors = errors.cloned().map(|mut error| {
            // Of these the core knows nothing.
            if let Some(known) = error.allowed.strip_suffix("the fields are job, after") {
                error.allowed = format!("{known}the fields are job, after, file, spec");
            }
            error
        });
        self.file.find(errors, "", &mut self.wrong);
        None
    }

    fn done(self) -> Result<Written, Error> {
        let Self {
            file,
            wrong,
            wrong_others,
            ..
        } = self;
        let own = (!wrong.is_empty()).then(|| file.error(wrong));
        match own.into_iter().chain(wrong_others).reduce(Error::and) {
            Some(why) => Err(why),
            None => Ok(file),
        }
    }
}

/// Of which job a document is, though it may be wrong otherwise.
fn id(document: &Value) -> Option<JobId> {
    let namespace = document.get("namespace").map(Value::as_str);
    JobId::new(
        namespace.unwrap_or(Some("default"))?,
        document.get("job_id")?.as_str()?,
    )
    .ok()
}
