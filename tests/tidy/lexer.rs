//! Tells code from comments and strings in Rust, as far as the rules need it.

/// The code of `text` and its comments, each with everything else blanked, so that lines and columns stay.
///
/// Of a string, its quotes stay in the code and its inside is in neither.
pub fn separate(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Out { code: String::new(), comments: String::new() };
    let mut i = 0;
    while i < chars.len() {
        let rest = &chars[i..];
        i += match rest {
            ['/', '/', ..] => out.comment(&rest[..line_comment(rest)]),
            ['/', '*', ..] => out.comment(&rest[..block_comment(rest)]),
            ['"', ..] => out.string(&rest[..string(rest)]),
            ['r', '"' | '#', ..] if !follows_a_word(&chars, i) && raw_string(rest) > 0 => {
                out.string(&rest[..raw_string(rest)])
            }
            ['\'', ..] => out.string(&rest[..character(rest)]),
            _ => out.code(&rest[..1]),
        };
    }
    (out.code, out.comments)
}

struct Out {
    code: String,
    comments: String,
}

impl Out {
    fn comment(&mut self, chars: &[char]) -> usize {
        self.code.extend(chars.iter().map(blank));
        self.comments.extend(chars);
        chars.len()
    }

    fn code(&mut self, chars: &[char]) -> usize {
        self.code.extend(chars);
        self.comments.extend(chars.iter().map(blank));
        chars.len()
    }

    fn string(&mut self, chars: &[char]) -> usize {
        let last = chars.len() - 1;
        self.code.extend(chars.iter().enumerate().map(|(i, c)| if i == 0 || i == last { *c } else { blank(c) }));
        self.comments.extend(chars.iter().map(blank));
        chars.len()
    }
}

fn blank(c: &char) -> char {
    if *c == '\n' { '\n' } else { ' ' }
}

/// Whether the character at `i` continues a word: the `r` of `for"` begins no raw string; that of `br"` does.
fn follows_a_word(chars: &[char], i: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    match i.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => i >= 2 && word(chars[i - 2]),
        Some(c) => word(c),
        None => false,
    }
}

fn line_comment(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match rest[i..] {
            ['/', '*', ..] => (depth, i) = (depth + 1, i + 2),
            ['*', '/', ..] => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

/// Length of the raw string that `rest` begins with; 0 if it is none (`r#type`).
fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let body = 2 + hashes;
    let end = |i: &usize| rest[*i] == '"' && rest[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (body..rest.len()).find(end).map_or(rest.len(), |i| i + 1 + hashes)
}

/// Length of the character literal; 1 for the quote of a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', _, tail @ ..] => 4 + tail.iter().position(|c| *c == '\'').unwrap_or(0),
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}

#[test]
fn comments_and_strings_are_told_from_code() {
    // In what is expected, a dot is a blank.
    for (text, code, comments) in [
        ("a // b", "a.....", "..// b"),
        ("a /* b /* c */ d */ e", "a ..................e", "../* b /* c */ d */.."),
        (r#"f("a // b")"#, r#"f("......")"#, "..........."),
        (r#"f("\"", 'x')"#, r#"f("..", '.')"#, "............"),
        (r##"r#"a"b"# + r"c""##, r##"r......# + r..""##, "..............."),
        (r"b'\'' + 'a + '_'", "b'..' + 'a + '.'", "................"),
        (r#"for"x""#, r#"for".""#, "......"),
        ("r#type", "r#type", "......"),
        ("a\n/* b\nc */ d", "a\n....\n.....d", ".\n/* b\nc */.."),
    ] {
        let dotted = |text: &str| text.replace(' ', ".");
        let (got_code, got_comments) = separate(text);
        assert_eq!((dotted(&got_code), dotted(&got_comments)), (dotted(code), dotted(comments)), "{text}");
    }
}
