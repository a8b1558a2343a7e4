//! `${VAR}` in the values of `[env]`: the caller's own variables, so that secrets need not stand in the file.

use crate::env_file;

/// The value with each `${VAR}` replaced and `$$` as one dollar sign; any other dollar sign is what it is. What a
/// variable holds is not looked at again. Errors name the variable and show nothing of the value.
pub fn interpolate(
    value: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut filled = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        filled.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or("a '${' has no '}' after it; write '$$' for a dollar sign")?;
            // What stands there may be a piece of a secret: it is not repeated.
            env_file::check_name(name).map_err(
                |_| "between '${' and '}' stands no variable's name; write '$$' for a dollar sign",
            )?;
            let found = variable(name).ok_or_else(|| {
                format!("the variable '{name}' is not set where this command runs")
            })?;
            filled.push_str(&found);
            rest = after;
        } else {
            filled.push('$');
            rest = after;
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(value: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "KEY" => Some("s3cret".to_owned()),
            "MONEY" => Some("${KEY}".to_owned()),
            _ => None,
        };
        interpolate(value, &variable)
    }

    #[test]
    fn variables_are_filled_in_once() {
        for (value, filled) in [
            ("", ""),
            ("plain", "plain"),
            ("${KEY}", "s3cret"),
            ("a${KEY}b${KEY}", "as3cretbs3cret"),
            ("${MONEY}", "${KEY}"),
            ("$KEY $ 5$", "$KEY $ 5$"),
            ("$${KEY}", "${KEY}"),
            ("$$${KEY}", "$s3cret"),
        ] {
            assert_eq!(fill(value).as_deref(), Ok(filled), "{value}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_else_is_shown() {
        assert!(fill("x${GONE}").unwrap_err().contains("'GONE'"));
        for bad in ["${", "hush${KEY", "${}", "${hush hush}", "${1A}"] {
            let error = fill(bad).unwrap_err();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
