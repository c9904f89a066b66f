//! GRUB's script language, second part: words to statements.

use std::rc::Rc;

use super::words::{Token, Word, plain, split};

/// How deep statements may be in one another.
const MAX_DEPTH: usize = 16;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    Command(Vec<Word>),
    /// Conditions with what follows from each, and what is done otherwise.
    If(Vec<(Block, Block)>, Block),
    /// `menuentry` or `submenu`, with the words after it.
    Entry {
        submenu: bool,
        words: Vec<Word>,
        body: Block,
    },
}

pub(crate) type Block = Rc<[Statement]>;

/// Reads a script. Functions and loops are passed over: no configuration starts its system from one.
pub(crate) fn parse(text: &str) -> Result<Block, String> {
    let mut parser = Parser {
        tokens: split(text),
        at: 0,
        depth: 0,
    };
    let (block, end) = parser.block(&[])?;
    match end {
        None => Ok(block),
        Some(word) => Err(format!("there is a \"{word}\" that nothing begins")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// Words that end a block, and are commands nowhere.
const ENDS: [&str; 7] = ["then", "elif", "else", "fi", "do", "done", "}"];

impl Parser {
    /// Statements up to one of the words `ends`, which is taken and returned; `None` at the end of the text.
    fn block(&mut self, ends: &[&str]) -> Result<(Block, Option<String>), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        let mut statements = Vec::new();
        let end = loop {
            let Some(token) = self.tokens.get(self.at) else {
                break None;
            };
            let first = match token {
                Token::End => {
                    self.at += 1;
                    continue;
                }
                Token::Word(word) => plain(word).unwrap_or_default().to_owned(),
            };
            if ends.contains(&first.as_str()) {
                self.at += 1;
                break Some(first);
            }
            if ENDS.contains(&first.as_str()) {
                return Err(format!("there is a \"{first}\" that nothing begins"));
            }
            statements.extend(self.statement(&first)?);
        };
        self.depth -= 1;
        if end.is_none() && !ends.is_empty() {
            return Err(format!("a \"{}\" is missing", ends.join("\" or \"")));
        }
        Ok((statements.into(), end))
    }

    fn statement(&mut self, first: &str) -> Result<Option<Statement>, String> {
        match first {
            "if" => self.conditional().map(Some),
            "menuentry" | "submenu" => {
                self.at += 1;
                let words = self.words_to_brace()?;
                let (body, _) = self.block(&["}"])?;
                Ok(Some(Statement::Entry {
                    submenu: first == "submenu",
                    words,
                    body,
                }))
            }
            "function" => {
                self.at += 1;
                self.words_to_brace()?;
                self.block(&["}"])?;
                Ok(None)
            }
            "for" | "while" | "until" => {
                self.at += 1;
                self.block(&["do"])?;
                self.block(&["done"])?;
                Ok(None)
            }
            "{" => Err("there is a \"{\" that nothing begins".into()),
            _ => Ok(Some(Statement::Command(self.words()))),
        }
    }

    fn conditional(&mut self) -> Result<Statement, String> {
        let mut branches = Vec::new();
        loop {
            // Past "if" or, the second time, already past "elif".
            if branches.is_empty() {
                self.at += 1;
            }
            let (condition, _) = self.block(&["then"])?;
            let (body, end) = self.block(&["elif", "else", "fi"])?;
            branches.push((condition, body));
            match end.as_deref() {
                Some("elif") => {}
                Some("else") => {
                    let (otherwise, _) = self.block(&["fi"])?;
                    return Ok(Statement::If(branches, otherwise));
                }
                _ => return Ok(Statement::If(branches, Rc::new([]))),
            }
        }
    }

    /// The words of a command.
    fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            words.push(word.clone());
            self.at += 1;
        }
        words
    }

    /// The words before a brace, which may be on the next line.
    fn words_to_brace(&mut self) -> Result<Vec<Word>, String> {
        let mut words = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match token {
                Token::Word(word) if plain(word) == Some("{") => return Ok(words),
                Token::Word(word) => words.push(word.clone()),
                Token::End => {}
            }
        }
        Err("a \"{\" is missing".into())
    }
}
