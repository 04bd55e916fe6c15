//! One line for an error and its sources.

use std::error::Error;

/// An error followed by all its sources, separated by `: `. A source whose text its parent already
/// ends with (`#[error(transparent)]`) is not repeated.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open {0}")]
    struct Outer(&'static str, #[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    enum Transparent {
        #[error(transparent)]
        Inner(#[from] Outer),
    }

    #[test]
    fn sources_follow_and_transparent_ones_are_not_repeated() {
        let error = Transparent::from(Outer("a map", io::Error::other("refused")));
        assert_eq!(error_chain(&error), "open a map: refused");
    }
}
