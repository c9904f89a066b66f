//! A document as a tree that can be changed. It is what is kept and given back, so that nothing of a client's XML is lost;
//! models are views of it.

mod bounds;
mod read;
mod write;

pub use bounds::{MAX_ATTRIBUTES, MAX_NAMESPACES};
pub use read::{MAX_DEPTH, MAX_NODES, MAX_SIZE, read};
pub use write::write;

/// An element.
#[derive(Debug, Clone, Default)]
pub struct Element {
    /// Its name, with the prefix that the document uses.
    pub name: String,
    /// Attributes in order, declarations of namespaces among them.
    pub attributes: Vec<(String, String)>,
    /// What is in it.
    pub children: Vec<Node>,
    /// The line where it begins in the client's document, from 1; 0 if it was not in it.
    pub line: u32,
}

/// What an element holds. Comments and processing instructions are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Characters.
    Text(String),
}

/// Two elements are equal whatever lines they were read from.
impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.attributes == other.attributes && self.children == other.children
    }
}

impl Eq for Element {}

impl Element {
    /// An empty element.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The same with an attribute more.
    #[must_use]
    pub fn with(mut self, attribute: &str, value: impl Into<String>) -> Self {
        self.set(attribute, value);
        self
    }

    /// The same with an element more.
    #[must_use]
    pub fn with_child(mut self, child: Element) -> Self {
        self.children.push(Node::Element(child));
        self
    }

    /// The same with a text more.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.children.push(Node::Text(text.into()));
        self
    }

    /// The value of an attribute.
    pub fn get(&self, attribute: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(name, _)| name == attribute);
        found.map(|(_, value)| value.as_str())
    }

    /// Gives an attribute a value; it keeps its place if it was there.
    pub fn set(&mut self, attribute: &str, value: impl Into<String>) {
        match self.attributes.iter_mut().find(|(name, _)| name == attribute) {
            Some((_, old)) => *old = value.into(),
            None => self.attributes.push((attribute.into(), value.into())),
        }
    }

    /// Gives an attribute a value if it has none.
    pub fn set_default(&mut self, attribute: &str, value: impl Into<String>) {
        if self.get(attribute).is_none() {
            self.set(attribute, value);
        }
    }

    /// Takes an attribute away.
    pub fn unset(&mut self, attribute: &str) {
        self.attributes.retain(|(name, _)| name != attribute);
    }

    /// The elements in it.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(Node::element)
    }

    /// The elements in it, to change.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.children.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The elements of this name in it.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements().filter(move |element| element.name == name)
    }

    /// The first element of this name in it.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.elements().find(|element| element.name == name)
    }

    /// The first element of this name in it, to change.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Element> {
        self.elements_mut().find(|element| element.name == name)
    }

    /// The first element of this name in it, which is made if there is none.
    pub fn child_or_new(&mut self, name: &str) -> &mut Element {
        let place = self
            .children
            .iter()
            .position(|node| node.element().is_some_and(|e| e.name == name));
        let place = place.unwrap_or_else(|| {
            self.children.push(Node::Element(Element::new(name)));
            self.children.len() - 1
        });
        match &mut self.children[place] {
            Node::Element(element) => element,
            Node::Text(_) => unreachable!("the place is that of an element"),
        }
    }

    /// The element at the end of a path of names, such as `driver/host`.
    pub fn at(&self, path: &str) -> Option<&Element> {
        path.split('/')
            .try_fold(self, |element, name| element.child(name))
    }

    /// An attribute of a child.
    pub fn child_get(&self, child: &str, attribute: &str) -> Option<&str> {
        self.child(child)?.get(attribute)
    }

    /// Takes every element away that is to go.
    pub fn remove_elements(&mut self, mut goes: impl FnMut(&Element) -> bool) {
        self.children
            .retain(|node| !node.element().is_some_and(&mut goes));
    }

    /// Its characters, without the white space around them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for node in &self.children {
            if let Node::Text(part) = node {
                text.push_str(part);
            }
        }
        text.trim().to_owned()
    }

    /// The text of a child that is there and not empty.
    pub fn child_text(&self, name: &str) -> Option<String> {
        Some(self.child(name)?.text()).filter(|text| !text.is_empty())
    }

    /// Puts a text in the place of all that is in it.
    pub fn set_text(&mut self, text: impl Into<String>) {
        self.children = vec![Node::Text(text.into())];
    }

    /// The prefix of its name, if it has one.
    pub fn prefix(&self) -> Option<&str> {
        self.name.split_once(':').map(|(prefix, _)| prefix)
    }
}

impl Node {
    /// The element that it is.
    pub fn element(&self) -> Option<&Element> {
        match self {
            Self::Element(element) => Some(element),
            Self::Text(_) => None,
        }
    }
}
