module june

go 1.25
