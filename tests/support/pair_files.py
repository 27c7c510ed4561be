"""Made up rows of the forms in which sets of pairs are published."""

IMDB = """Sentiment\tText\tbatch_id
Negative\t"A ""bad"" film.<br /><br />Don't see it."\t122
Positive\t"A ""good"" film.<br /><br />See it."\t122
Positive\tThe plot is strong.\t284
Negative\tThe plot is weak.\t284
"""
CEBAB = (
    "id,original_id,edit_id,is_original,edit_goal,edit_type,description,review_majority\n"
    "7_0,7,0,True,,,The soup was warm and tasty.,5\n"
    "7_1,7,1,False,Negative,food,The soup was cold and bland.,1\n"
    "7_2,7,2,False,unknown,food,The room was warm.,no majority\n"
    "7_3,7,3,False,Positive,service,The soup was tasty and the waiter kind.,4\n"
    "8_1,8,1,False,Positive,food,The fish was fresh.,4\n"
    "8_0,8,0,True,,,The fish was off.,2\n"
    "9_0,9,0,True,,,It was a place.,3\n"
    "9_1,9,1,False,Negative,food,It was a bad place.,2\n"
)
ORIGINAL = "Sentiment\tText\nNegative\tA dull film.\nPositive\tA fine cast.\n"
CONTRAST = "Sentiment\tText\nPositive\tA gripping film.\nNegative\tA poor cast.\n"
SST2 = "sentence\tlabel\tpair_id\na charming film\t1\t0\na tedious film\t0\t0\n"
