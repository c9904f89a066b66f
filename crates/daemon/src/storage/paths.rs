//! Paths as text.

/// A path without double slashes, single dots and a slash at its end.
pub fn clean(path: &str) -> String {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    let clean: String = parts.flat_map(|part| ["/", part]).collect();
    if clean.is_empty() { "/".into() } else { clean }
}

/// The folder and the name of an absolute path that does not go back.
pub fn split(path: &str) -> Option<(String, String)> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return None;
    }
    let clean = clean(path);
    let (parent, name) = clean.rsplit_once('/')?;
    let parent = if parent.is_empty() { "/" } else { parent };
    (!name.is_empty()).then(|| (parent.into(), name.into()))
}

/// Text as the content of an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
