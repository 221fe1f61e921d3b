//! Every story in `tests/scripts` holds.

mod story;

use std::path::Path;

#[test]
fn every_story_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the stories are beside this file")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "the stories are gone");
    let mut broken = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a story is text");
        if let Err(why) = story::Story::new().play(&text) {
            broken.push(format!(
                "{}: {why}",
                path.file_name().unwrap_or_default().to_string_lossy()
            ));
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {} stories are broken:\n{}",
        broken.len(),
        paths.len(),
        broken.join("\n")
    );
}
