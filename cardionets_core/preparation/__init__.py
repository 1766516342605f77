"""`cardionets prepare`: a hospital's folders -> a prepared site."""
