"""`cardionets-site check`: whether this hospital can join, in which stages, and what to do if not.

Every module looks at one thing and returns findings; none of them stops the others. What is found
stays at the site, and still names no patient: row numbers, counts, keys and folders only.
"""
