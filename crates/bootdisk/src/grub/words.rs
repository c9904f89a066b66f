//! GRUB's script language, first part: text to words (GRUB manual, 6.3 and 6.4).

use std::collections::HashMap;

/// A word, of pieces that are put together when it is used.
pub(crate) type Word = Vec<Piece>;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// A variable's name, and whether it stands in quotes: then it is never split.
    Variable(String, bool),
}

/// What a script is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Word(Word),
    /// A semicolon or the end of a line.
    End,
}

/// Splits a script into words. Unfinished quotes end with the text.
pub(crate) fn split(text: &str) -> Vec<Token> {
    let mut reader = Reader {
        chars: text.chars().peekable(),
        tokens: Vec::new(),
        word: None,
    };
    reader.run();
    reader.tokens
}

struct Reader<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    tokens: Vec<Token>,
    /// The word that is being read.
    word: Option<Word>,
}

impl Reader<'_> {
    fn run(&mut self) {
        while let Some(c) = self.chars.next() {
            match c {
                '\n' | ';' => {
                    self.end_word();
                    self.tokens.push(Token::End);
                }
                ' ' | '\t' | '\r' => self.end_word(),
                '#' if self.word.is_none() => while self.chars.next_if(|c| *c != '\n').is_some() {},
                '\'' => {
                    self.text("");
                    while let Some(c) = self.chars.next().filter(|c| *c != '\'') {
                        self.char(c);
                    }
                }
                '"' => self.double_quotes(),
                '\\' => match self.chars.next() {
                    // A line that goes on.
                    Some('\n') | None => {}
                    Some(c) => self.char(c),
                },
                '$' => self.variable(false),
                c => self.char(c),
            }
        }
        self.end_word();
        self.tokens.push(Token::End);
    }

    fn double_quotes(&mut self) {
        self.text("");
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return,
                '$' => self.variable(true),
                '\\' => match self.chars.next() {
                    Some('\n') | None => {}
                    Some(c @ ('$' | '"' | '\\')) => self.char(c),
                    Some(c) => {
                        self.char('\\');
                        self.char(c);
                    }
                },
                c => self.char(c),
            }
        }
    }

    /// After a dollar sign.
    fn variable(&mut self, quoted: bool) {
        let mut name = String::new();
        if self.chars.next_if_eq(&'{').is_some() {
            while let Some(c) = self.chars.next().filter(|c| *c != '}') {
                name.push(c);
            }
        } else {
            let in_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            while let Some(c) = self.chars.next_if(in_name) {
                name.push(c);
            }
            if name.is_empty() {
                // Of the special ones only the status of a command is ever used.
                match self.chars.next_if(|c| matches!(c, '?' | '#' | '*' | '@')) {
                    Some(c) => name.push(c),
                    None => return self.char('$'),
                }
            }
        }
        self.word
            .get_or_insert_default()
            .push(Piece::Variable(name, quoted));
    }

    fn char(&mut self, c: char) {
        self.text(c.encode_utf8(&mut [0; 4]));
    }

    fn text(&mut self, text: &str) {
        let word = self.word.get_or_insert_default();
        match word.last_mut() {
            Some(Piece::Text(before)) => before.push_str(text),
            _ => word.push(Piece::Text(text.into())),
        }
    }

    fn end_word(&mut self) {
        self.tokens.extend(self.word.take().map(Token::Word));
    }
}

/// The word as it stands, if there is no variable in it.
pub(crate) fn plain(word: &Word) -> Option<&str> {
    match word.as_slice() {
        [Piece::Text(text)] => Some(text),
        _ => None,
    }
}

/// Puts words together: variables that are empty vanish, and those outside of quotes are split at blanks. What would be longer
/// than `most` bytes is cut.
pub(crate) fn expand(words: &[Word], variables: &HashMap<String, String>, most: usize) -> Vec<String> {
    let mut expanded: Vec<String> = Vec::new();
    let mut total = 0;
    for word in words {
        let mut now: Option<String> = None;
        for piece in word {
            let (value, splits) = match piece {
                Piece::Text(text) => (text.as_str(), false),
                Piece::Variable(name, quoted) => (variables.get(name).map_or("", String::as_str), !quoted),
            };
            total += value.len();
            if total > most {
                return expanded;
            }
            if !splits {
                now.get_or_insert_default().push_str(value);
                continue;
            }
            if value.starts_with([' ', '\t']) {
                expanded.extend(now.take());
            }
            let mut parts = value
                .split([' ', '\t'])
                .filter(|part| !part.is_empty())
                .peekable();
            while let Some(part) = parts.next() {
                now.get_or_insert_default().push_str(part);
                if parts.peek().is_some() || value.ends_with([' ', '\t']) {
                    expanded.extend(now.take());
                }
            }
        }
        expanded.extend(now);
    }
    expanded
}
